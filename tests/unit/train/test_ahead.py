"""Rollouts one step ahead: which weights sample what, what a checkpoint holds, and how everything ends."""

import os
import signal
import threading
import time

import pytest
import torch

from components.contracts.errors import ConfigError, SearchError, StoppedBySignal, TrainingStopped
from components.train.alarms import check_mismatch, observe_mismatch
from components.train.checkpoint import TrainState
from components.train.config import CorrectionConfig, TrainConfig
from tests.unit.train.pupil import AHEAD, EVERY_STEP, NUM_DEV, Client, FailingLearner, Pupil, kill_after, weights


class Diary(Pupil):
    """Writes down after which publish, and in which thread, each seed of training was first asked for."""

    def __init__(self, dev_scores) -> None:
        super().__init__(dev_scores)
        self.entries: dict[int, tuple[int, bool]] = {}

    def add_request(self, request) -> None:
        super().add_request(request)
        in_main = threading.current_thread() is threading.main_thread()
        if request.temperature:
            self.entries.setdefault(request.seed, (len(self.published), in_main))


def final(trainer, state: TrainState) -> torch.Tensor:
    trainer.run(state)
    return weights(trainer.learner.policy)


def test_each_batch_is_sampled_beside_the_update_before_it_with_the_weights_from_before_that(make_trainer):
    trainer = make_trainer([0.3], steps=4, **AHEAD)
    trainer.engine = Diary([0.3])
    trainer.run(TrainState())
    # Step k asks after k publishes without looking ahead, after k - 1 with it: the first two share their weights.
    assert list(trainer.engine.entries.values()) == [(0, True)] * 6 + [
        (step, False) for step in range(3) for _ in range(6)
    ]
    steps = [metrics for _, metrics in trainer.tracker.lines[1:]]
    assert [metrics["rollout/staleness_steps"] for metrics in steps] == [0, 1, 1, 1]
    assert ["time/overlapped_s" in metrics for metrics in steps] == [True, True, True, False]


def test_from_equal_episodes_a_step_learns_the_same_with_and_without_looking_ahead(make_trainer):
    """The pupil samples alike whatever the weights."""
    ahead = make_trainer([0.3], steps=2, folder="ahead", **AHEAD)
    level = make_trainer([0.3], steps=2, folder="level", correction=AHEAD["correction"])
    for trainer in (ahead, level):
        trainer.engine = Diary([0.3])
        trainer.run(TrainState())
    assert list(ahead.engine.entries) == list(level.engine.entries)
    for step in (1, 2):
        for trainer in (ahead, level):
            trainer.checkpoints.restore(f"step_{step:06d}", trainer.learner)
        assert torch.equal(weights(ahead.learner.policy), weights(level.learner.policy))


def test_update_and_rollout_really_run_beside_each_other(make_trainer):
    class Slow(Pupil):
        def step(self):
            time.sleep(0.02)
            return super().step()

    trainer = make_trainer([0.3], steps=2, dev={"every_steps": 50}, **AHEAD)
    trainer.engine, trainer.learner = Slow([0.3]), SlowLearner(trainer.learner)
    trainer.run(TrainState())
    _, first = trainer.tracker.lines[1]
    assert first["time/overlapped_s"] > 0.2
    assert first["time/ahead_wait_s"] < 0.1


def test_wait_for_a_rollout_is_no_time_beside_other_work(make_trainer):
    class Slow(Pupil):
        def step(self):
            time.sleep(0.1 * (threading.current_thread() is not threading.main_thread()))
            return super().step()

    trainer = make_trainer([0.3], steps=2, dev={"every_steps": 50}, **AHEAD)
    trainer.engine = Slow([0.3])
    trainer.run(TrainState())
    _, first = trainer.tracker.lines[1]
    assert 0 < first["time/overlapped_s"] < first["time/ahead_wait_s"]


class SlowLearner:
    """A learner whose updates take at least .4 s."""

    def __init__(self, learner) -> None:
        self._learner = learner

    def __getattr__(self, name):
        return getattr(self._learner, name)

    def update(self, *given):
        time.sleep(0.4)
        return self._learner.update(*given)


@pytest.mark.parametrize("killed_after", [1, 3, 4])
@pytest.mark.parametrize("save_every_steps", [1, 2])
def test_killed_run_resumes_with_the_batch_that_was_ahead(make_trainer, killed_after, save_every_steps):
    settings = AHEAD | {"save_every_steps": save_every_steps, "dev": {"every_steps": 50}}
    whole, killed, resumed = (make_trainer([0.3], folder=f, **settings) for f in ("whole", "killed", "killed"))
    whole.engine, resumed.engine = Diary([0.3]), Diary([0.3])
    expected = final(whole, TrainState())
    killed.announce = kill_after(killed_after)
    with pytest.raises(KeyboardInterrupt):
        killed.run(TrainState())
    newest = killed.checkpoints.complete()[-1]
    state = resumed.checkpoints.restore(newest, resumed.learner)
    step, num_ahead = state.step, len(state.ahead)
    assert step == killed_after - killed_after % save_every_steps
    assert num_ahead == (6 if step else 0)
    assert torch.equal(final(resumed, state), expected)
    saved = [seed for seed in whole.engine.entries if seed not in resumed.engine.entries]
    assert len(saved) == 6 * step + num_ahead, "the batch of the checkpoint was sampled again"


@pytest.mark.parametrize("in_the_thread", [True, False])
def test_sigterm_is_heeded_and_the_batch_that_was_ahead_is_not_lost(make_trainer, in_the_thread):
    class KillingPupil(Pupil):
        def step(self):
            in_main = threading.current_thread() is threading.main_thread()
            if len(self.requests) == NUM_DEV * 2 + 6 * 2 + 8 and not in_main:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step()

    settings = AHEAD | {"save_every_steps": 50, "dev": {"every_steps": 50}, "steps": 4}
    whole, killed, resumed = (make_trainer([0.3], folder=f, **settings) for f in ("whole", "killed", "killed"))
    expected = final(whole, TrainState())
    if in_the_thread:
        killed.engine = KillingPupil([0.3])
    else:
        killed.announce = lambda state, metrics: state.step == 1 and os.kill(os.getpid(), signal.SIGTERM)
    # Heard in the thread it ends the step before its first update, or, when that is made already, after it.
    with killed.stop, pytest.raises(StoppedBySignal, match="after step [01]" if in_the_thread else "after step 1"):
        killed.run(TrainState())
    state = resumed.checkpoints.restore(killed.checkpoints.complete()[-1], resumed.learner)
    assert len(state.ahead) == 6 * state.step
    assert torch.equal(final(resumed, state), expected)


def test_return_to_the_best_weights_forgets_the_batch_of_the_collapsed_ones(make_trainer):
    trainer = make_trainer([0.2, 0.9, 0.3, 0.3, 0.8], steps=5, dev=EVERY_STEP, **AHEAD)
    trainer.engine = Diary([0.2, 0.9, 0.3, 0.3, 0.8])
    state = trainer.run(TrainState())
    assert state.num_rollbacks == 1
    steps = [metrics["rollout/staleness_steps"] for _, metrics in trainer.tracker.lines[1:]]
    # Steps 2 and 3 collapsed; step 4 is sampled anew with the weights of step 1.
    assert steps == [0, 1, 1, 0, 1]


class FailingAhead(Client):
    """Every search asked by a thread other than the main one fails."""

    def submit(self, query):
        self.failing = 99 if threading.current_thread() is not threading.main_thread() else 0
        return super().submit(query)


def test_failed_searches_ahead_surface_before_they_reach_a_checkpoint(make_trainer):
    trainer = make_trainer([0.3], FailingAhead(), **AHEAD)
    with pytest.raises(SearchError, match="6 of 6 searches of a training step failed"):
        trainer.run(TrainState())
    assert trainer.checkpoints.complete() == ["step_000000"]
    resumed = make_trainer([0.3], **AHEAD)
    state = resumed.checkpoints.restore("step_000000", resumed.learner)
    assert state.ahead == []
    assert resumed.run(state).step == 6


def test_bug_in_the_thread_surfaces_in_the_main_one(make_trainer):
    class Broken(Pupil):
        def step(self):
            if threading.current_thread() is not threading.main_thread():
                raise ZeroDivisionError("a bug")
            return super().step()

    trainer = make_trainer([0.3], **AHEAD)
    trainer.engine = Broken([0.3])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        trainer.run(TrainState())


def test_weights_are_published_only_when_the_rollout_beside_the_update_has_ended(make_trainer):
    class Slow(Pupil):
        """Is still asked when the update is done."""

        def step(self):
            if threading.current_thread() is not threading.main_thread():
                time.sleep(0.05)
            return super().step()

        def publish(self, named_tensors) -> None:
            assert not self.waiting, "weights changed during a turn"
            assert not trainer.ahead.is_under_way
            super().publish(named_tensors)

    trainer = make_trainer([0.3], steps=3, **AHEAD)
    trainer.engine = Slow([0.3])
    trainer.run(TrainState())
    assert len(trainer.engine.published) == 4


def test_a_failure_beside_a_rollout_cuts_it_short_and_waits_for_its_step(make_trainer):
    steps_ended = []

    class Patient(Pupil):
        def step(self):
            if threading.current_thread() is not threading.main_thread():
                trainer.ahead._abandoned.wait(30)
                time.sleep(0.2)
                steps_ended.append(len(self.waiting))
            return super().step()

    trainer = make_trainer([0.3], **AHEAD)
    trainer.engine = Patient([0.3])
    trainer.learner = FailingLearner(trainer.learner, TrainingStopped("the update"))
    with pytest.raises(TrainingStopped, match="the update"):
        trainer.run(TrainState())
    assert not trainer.ahead.is_under_way
    # Six episodes search before they answer; the thread was in its first step.
    assert (len(trainer.engine.waiting), steps_ended) == (6, [6])


@pytest.mark.parametrize("values", [{"max_staleness_steps": 2}, {"max_staleness_steps": -1}])
def test_more_than_one_step_ahead_is_out_of_bounds(values):
    with pytest.raises(ConfigError, match="max_staleness_steps"):
        TrainConfig.parse(values)


@pytest.mark.parametrize(
    ("kl", "staleness", "counted"), [(0.06, 0, 1), (0.06, 1, 0), (0.11, 1, 1), (float("nan"), 1, 1)]
)
def test_update_between_engine_and_trainer_is_allowed_for(kl, staleness, counted):
    state, config = TrainState(), CorrectionConfig(max_mismatch_kl=0.05)
    observe_mismatch(state, kl, config, staleness_steps=staleness)
    assert state.mismatch_in_a_row == counted


def test_stop_for_a_mismatch_names_the_limit_that_held():
    with pytest.raises(TrainingStopped, match=r"above 0.1 for 3 steps.* single updates move the policy too far"):
        check_mismatch(TrainState(mismatch_in_a_row=3), CorrectionConfig(max_mismatch_kl=0.05), staleness_steps=1)
