"""What an engine with weights of its own is given after every update, and the probe that finds out what got lost."""

import pytest
import torch

from components.agent.engines.torch_engine import TorchEngine
from components.contracts.errors import EngineError
from components.train.weights import own_logprobs, publish_weights

CONTEXT = 120
# Such a temperature is that of rollouts: the probe and the engine's scores are at 1.
SETTINGS = {"engine": "vllm", "temperature": 0.5, "loop": {"max_context_tokens": CONTEXT}}


class Numbers:
    """A tokenizer whose words are the ids of a tiny policy's vocabulary."""

    eos_token_id = pad_token_id = None

    def encode(self, text, *, add_special_tokens):
        return [ord(character) % 23 for character in text]


class LosesWeights(TorchEngine):
    """Takes new weights for granted."""

    def publish(self, named_tensors) -> None:
        self.reset_cache()


class Rounds(TorchEngine):
    """Keeps weights in bfloat16."""

    def publish(self, named_tensors) -> None:
        super().publish((name, tensor.bfloat16().float()) for name, tensor in named_tensors)


@pytest.fixture
def make_engine(make_policy):
    """An engine that begins with other weights than the learner, as one does after an update."""
    return lambda kind: kind(make_policy(1), Numbers(), num_slots=2, max_context_tokens=CONTEXT)


def test_weights_that_arrived_are_told_by_a_small_error(make_learner, make_engine):
    learner, engine = make_learner(**SETTINGS), make_engine(TorchEngine)
    assert 0 <= publish_weights(engine, learner, Numbers())["engine/probe_error_nats"] < 1e-5
    assert engine.score([3, 1, 4, 1, 5]) == pytest.approx(own_logprobs(learner, [3, 1, 4, 1, 5]), abs=1e-5)


def test_weights_that_did_not_arrive_end_the_run(make_learner, make_engine):
    with pytest.raises(EngineError, match="weights did not arrive"):
        publish_weights(make_engine(LosesWeights), make_learner(**SETTINGS), Numbers())


@pytest.mark.parametrize(
    "allowed_by",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"vllm": {"dtype": "bfloat16"}}, id="an engine that rounds"),
        pytest.param({"vllm": {"max_probe_error_nats": 0.2}}, id="a bound of its own"),
        pytest.param({"parallel": {"cpu_ranks": 2, "compute_dtype": "bfloat16"}}, id="a learner that rounds"),
    ],
)
def test_rounded_weights_pass_where_rounding_was_asked_for(make_learner, make_engine, allowed_by):
    arguments = make_engine(Rounds), make_learner(**SETTINGS | allowed_by), Numbers()
    if allowed_by:
        assert 1e-4 < publish_weights(*arguments)["engine/probe_error_nats"] < 0.1
        return
    with pytest.raises(EngineError, match="weights did not arrive"):
        publish_weights(*arguments)


def test_own_logprobs_are_those_of_a_plain_forward_at_temperature_one(make_learner):
    learner, ids = make_learner(**SETTINGS), [number % 23 for number in range(50)]
    with torch.no_grad():
        logprobs = learner.policy(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    expected = logprobs.gather(-1, torch.tensor(ids)[1:, None])[:, 0].tolist()
    assert own_logprobs(learner, ids) == pytest.approx(expected, abs=1e-5)
