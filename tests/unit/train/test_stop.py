"""SIGTERM: the run ends at a safe point with a checkpoint that continues it exactly."""

import os
import signal
from concurrent.futures import Future

import pytest
import torch

from components.agent.config import VllmConfig
from components.contracts.errors import StoppedBySignal
from components.train.checkpoint import Checkpoints, TrainState
from components.train.stop import StopRequest
from tests.unit.train.pupil import NUM_DEV, Client, weights
from tests.unit.train.test_ways_out import SlowStorage


@pytest.mark.parametrize("when", ["in a rollout", "in an update", "in a dev evaluation", "between steps"])
def test_sigterm_ends_the_run_with_a_checkpoint_and_resuming_gives_the_same_bits(make_trainer, when):
    settings = {"steps": 4, "save_every_steps": 50, "dev": {"every_steps": 2 if when == "in a dev evaluation" else 50}}
    whole = make_trainer([0.3], folder="whole", **settings)
    end = whole.run(TrainState())
    killed, resumed = (make_trainer([0.3], folder="k", **settings) for _ in range(2))
    if when == "between steps":
        killed.announce = lambda state, metrics: state.step == 2 and os.kill(os.getpid(), signal.SIGTERM)
    elif when == "in an update":
        killed.learner.scorer.register_forward_hook(KillingHook(killed, at_step=2))
    elif when == "in a dev evaluation":
        killed.client = KillingClient(at_query=NUM_DEV + 3, of_training=False)
    else:
        killed.client = KillingClient(at_query=15)
    with killed.stop, pytest.raises(StoppedBySignal, match="after step 2") as caught:
        killed.run(TrainState())
    assert caught.value.exit_code == 143
    if isinstance(killed.client, KillingClient):
        assert killed.client.asked() == killed.client.at_query + 1, "it was played to its end"
    assert killed.checkpoints.complete() == ["step_000000", "step_000002"]
    resumed_end = resumed.run(resumed.checkpoints.restore("step_000002", resumed.learner))
    assert torch.equal(weights(resumed.learner.policy), weights(whole.learner.policy))
    assert resumed_end.em_curve == end.em_curve
    assert untimed(killed.tracker.lines + resumed.tracker.lines) == untimed(whole.tracker.lines)


def test_signal_means_afterwards_what_it_meant_before():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.heard()
    assert signal.getsignal(signal.SIGTERM) is before


def untimed(lines):
    """Return logged steps without what a clock says of them."""
    clocks = ("time/", "perf/", "search/latency", "progress/gpu_hours")
    return [(step, {k: v for k, v in metrics.items() if not k.startswith(clocks)}) for step, metrics in lines]


def test_sigterm_in_the_first_dev_evaluation_leaves_nothing_to_continue(make_trainer):
    trainer = make_trainer([0.3], KillingClient(at_query=3, of_training=False), steps=4)
    with trainer.stop, pytest.raises(StoppedBySignal, match=r"after step 0; .* continues from the beginning"):
        trainer.run(TrainState())
    assert trainer.checkpoints.complete() == []
    assert trainer.client.asked() == 4, "it was played to its end"


def test_sigterm_ends_the_sampling_of_the_base_model_and_whole_rollouts_are_kept(make_trainer):
    settings = {"algorithm": "rejection_sampling", "rollout_steps": 9}
    trainer = make_trainer([0.3], KillingClient(at_query=7), **settings)
    with trainer.stop, pytest.raises(StoppedBySignal, match="after step 0; the same command continues from there"):
        trainer.run(TrainState())
    assert len(trainer.storage.list("kept_episodes")) == 1
    assert trainer.checkpoints.complete() == ["step_000000"]


@pytest.mark.parametrize(("refused", "where"), [("step_000002", "step_000000"), ("step_", "the beginning")])
def test_sigterm_whose_checkpoint_cannot_be_saved_says_where_it_goes_on(make_trainer, refused, where):
    trainer = make_trainer([0.3], steps=4, save_every_steps=50, dev={"every_steps": 50})
    trainer.announce = lambda state, metrics: state.step == 2 and os.kill(os.getpid(), signal.SIGTERM)
    trainer.checkpoints = Checkpoints(SlowStorage(trainer.checkpoints._storage, refused=refused))
    with trainer.stop, pytest.raises(StoppedBySignal, match=f"after step 2; .* continues from {where}$"):
        trainer.run(TrainState())


class KillingClient(Client):
    """Sends this process SIGTERM in the middle of a rollout of training or of a dev evaluation."""

    def __init__(self, at_query: int, of_training: bool = True) -> None:
        super().__init__()
        self.at_query, self.of_training = at_query, of_training

    def asked(self) -> int:
        return sum((int(query) >= 100) == self.of_training for query in self.queries)

    def submit(self, query) -> Future:
        if self.asked() == self.at_query and (int(query) >= 100) == self.of_training:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().submit(query)


class KillingHook:
    """Sends this process SIGTERM after the first pass of the update of a step."""

    def __init__(self, trainer, at_step: int) -> None:
        self.trainer, self.at_step = trainer, at_step

    def __call__(self, scorer, inputs, output) -> None:
        if len(self.trainer.tracker.lines) == self.at_step + 1 and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGTERM)


def test_ranks_that_share_an_engine_play_a_rollout_to_its_end(make_trainer):
    """One of them alone would leave the others waiting in the model's collectives."""
    trainer = make_trainer([0.3], KillingClient(at_query=3), steps=2)
    trainer.config = trainer.config.model_copy(update={"engine": "vllm", "vllm": VllmConfig(tensor_parallel=2)})
    with trainer.stop, pytest.raises(StoppedBySignal):
        trainer.run(TrainState())
    assert sum(int(query) >= 100 for query in trainer.client.queries) == 6
