"""The training loop over vLLM: every step's weights arrive, and a step that loses them stops the run."""

import copy

import pytest

from components.contracts.errors import EngineError
from components.contracts.question import Question
from components.storage import open_storage
from components.train.checkpoint import Checkpoints, TrainState
from components.train.config import TrainConfig
from components.train.learner import Learner
from components.train.rollout_samples import RolloutSamples
from components.train.stop import StopRequest
from components.train.trainer import Trainer

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("opened", ["bundled"], indirect=True, scope="session"),
]


class Log:
    """Keeps what a tracker was told."""

    def __init__(self) -> None:
        self.lines = []

    def log(self, step, metrics) -> None:
        self.lines.append(metrics)


class Forgetful:
    """An engine that stops taking weights after the first time."""

    def __init__(self, engine) -> None:
        self._engine, self._publish = engine, engine.publish

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def publish(self, named_tensors) -> None:
        self._publish(named_tensors)
        self._publish = lambda _: self._engine.reset_cache()


@pytest.fixture
def make_trainer(pair, library, tmp_path):
    def make(engine, **settings):
        questions = [
            Question(id=f"nq:{i}", set_name="nq", question=f"who wrote the book dega duta {i}?", golden_answers=("x",))
            for i in range(12)
        ]
        config = TrainConfig.parse(
            {
                "engine": "vllm",
                "algorithm": "ppo",
                "steps": 2,
                "questions_per_step": 6,
                "set_shares": {"nq": 1.0},
                "row_tokens": 384,
                "reward": {"format_reward": 0.2},
                "dev": {"every_steps": 1, "max_questions": 2},
                "threads": 1,
            }
            | settings
        )
        storage = open_storage(f"file://{tmp_path}/work")
        return Trainer(
            config,
            # vLLM has started a process group, in which a learner shards its policy in place.
            Learner(copy.deepcopy(pair.model), config, pad_id=0),
            engine,
            pair.tokenizer,
            library,
            {"nq": questions[2:]},
            questions[:2],
            Checkpoints(storage),
            Log(),
            tmp_path / "work" / "metrics.jsonl",
            lambda state, metrics: None,
            StopRequest(),
            RolloutSamples(storage, config, pair.tokenizer),
        )

    return make


def test_training_publishes_and_probes_every_step(pair, make_trainer):
    trainer = make_trainer(pair.vllm)
    assert trainer.run(TrainState()).step == 2
    steps = [line for line in trainer.tracker.lines if "loss/policy" in line]
    assert len(steps) == 2
    for metrics in steps:
        # One update from the engine's own samples: its log-probabilities are the learner's.
        assert metrics["engine/probe_error_nats"] < 1e-5
        assert metrics["time/publish_s"] > 0


def test_rollouts_ahead_have_the_weights_from_before_the_update_and_publishing_is_probed_all_the_same(
    pair, make_trainer
):
    correction = {"mode": "decoupled", "sequence_low": 0.5, "sequence_high": 2.0}
    # So few answers may all be equally wrong: the entropy moves the weights then, too.
    loss = {"entropy_coefficient": 0.05}
    trainer = make_trainer(pair.vllm, steps=3, max_staleness_steps=1, correction=correction, loss=loss)
    trainer.run(TrainState())
    steps = [line for line in trainer.tracker.lines if "loss/policy" in line]
    assert [metrics["rollout/staleness_steps"] for metrics in steps] == [0, 1, 1]
    assert all(metrics["engine/probe_error_nats"] < 1e-5 for metrics in steps)
    gaps = [metrics["kl/rollout_vs_trainer"] for metrics in steps]
    assert gaps[0] < 1e-9 < min(gaps[1:])


def test_lost_update_stops_the_run(pair, make_trainer):
    with pytest.raises(EngineError, match="weights did not arrive"):
        make_trainer(Forgetful(pair.vllm)).run(TrainState())
