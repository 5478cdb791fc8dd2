"""Whatever ends a training run, the save that was under way is complete and the error is the one that happened."""

import threading
import time

import pytest
import torch

from components.contracts.errors import SearchError, StorageError, TrainingStopped
from components.train.checkpoint import Checkpoints, TrainState
from tests.unit.train.pupil import EVERY_STEP, Client, FailingLearner, weights

MISMATCH = {"correction": {"max_mismatch_kl": 1e-9}}


class SlowStorage:
    """Takes .1 s to store a file, and refuses those whose key begins with `refused`."""

    def __init__(self, storage, refused: str = "nothing") -> None:
        self._storage, self._refused = storage, refused

    def __getattr__(self, name):
        return getattr(self._storage, name)

    def take_file(self, source, key) -> None:
        time.sleep(0.1)
        if key.startswith(self._refused):
            raise StorageError("disk full")
        self._storage.take_file(source, key)


class Failing(Client):
    """Finds what the first dev evaluation asks and nothing more."""

    def submit(self, query):
        self.failing = 99
        return super().submit(query)


@pytest.mark.parametrize(
    ("settings", "client", "update_raises", "ends_with", "last"),
    [
        pytest.param(MISMATCH, Client(), None, TrainingStopped, 3, id="mismatch"),
        pytest.param({}, Failing(), None, SearchError, 0, id="searches"),
        pytest.param({}, Client(), RuntimeError("out of memory"), RuntimeError, 0, id="one-rank-alone"),
        pytest.param({}, Client(), KeyboardInterrupt(), KeyboardInterrupt, 0, id="a-person"),
        pytest.param({"dev": EVERY_STEP, "steps": 2}, Client(), None, None, 2, id="its-end"),
    ],
)
def test_save_under_way_is_completed(make_trainer, settings, client, update_raises, ends_with, last):
    trainer = make_trainer([0.3], client, **settings)
    storage = trainer.checkpoints._storage
    trainer.checkpoints = Checkpoints(SlowStorage(storage))
    if update_raises is not None:
        trainer.learner = FailingLearner(trainer.learner, update_raises)
    if ends_with is None:
        trainer.run(TrainState())
    else:
        with pytest.raises(ends_with):
            trainer.run(TrainState())
    assert storage.exists(f"step_{last:06d}/_COMPLETE")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("save ")]


def test_save_that_fails_then_hides_no_error(make_trainer, capsys):
    trainer = make_trainer([0.3], **MISMATCH)
    storage = trainer.checkpoints._storage
    trainer.checkpoints = Checkpoints(SlowStorage(storage, refused="step_000003"))
    with pytest.raises(TrainingStopped, match="the last of them step 3"):
        trainer.run(TrainState())
    assert "checkpoint step_000003 could not be saved (storage: disk full)" in capsys.readouterr().out
    assert storage.exists("step_000002/_COMPLETE")
    assert not storage.exists("step_000003/_COMPLETE")


def test_saves_that_fail_again_and_again_are_a_note_on_the_error(make_trainer):
    trainer = make_trainer([0.3], **MISMATCH)
    trainer.checkpoints = Checkpoints(SlowStorage(trainer.checkpoints._storage, refused="step_00000"))
    with pytest.raises(StorageError, match="3 checkpoints in a row"):
        trainer.run(TrainState())
    trainer.checkpoints = Checkpoints(SlowStorage(trainer.checkpoints._storage, refused="step_00000"))
    for step in (4, 5, 6):
        trainer.checkpoints.save(trainer.learner, TrainState(step=step), trainer.metrics_file)
    error = TrainingStopped("enough")
    trainer.checkpoints.finish_after(error)
    (note,) = error.__notes__
    assert note.startswith("and the last checkpoint is not complete: storage: 3 checkpoints in a row")


def test_best_weights_that_could_not_be_saved_give_way_to_the_next_best(make_trainer, capsys):
    """The checkpoint kept is then that of another evaluation, and so are the step and the score that are reported."""
    trainer = make_trainer([0.1, 0.5, 0.9, 0.3], steps=5, dev=EVERY_STEP | {"max_drop": 1.0})
    storage = trainer.checkpoints._storage
    trainer.checkpoints = Checkpoints(SlowStorage(storage, refused="step_000002"))
    state = trainer.run(TrainState())
    assert "checkpoint step_000002 could not be saved" in capsys.readouterr().out
    assert (state.best_step, state.best_dev_em) == (1, 0.5)
    assert trainer.checkpoints.complete() == ["step_000001", "step_000004", "step_000005"]
    ended_with = weights(trainer.learner.policy)
    trainer.checkpoints.restore("step_000001", trainer.learner)
    assert torch.equal(weights(trainer.learner.policy), ended_with)


def test_best_weights_of_the_last_step_need_no_checkpoint(make_trainer):
    trainer = make_trainer([0.1, 0.2, 0.9], steps=2, dev=EVERY_STEP)
    trainer.checkpoints = Checkpoints(SlowStorage(trainer.checkpoints._storage, refused="step_000002"))
    state = trainer.run(TrainState())
    assert (state.best_step, state.best_dev_em) == (2, 0.9)
    trained = weights(trainer.learner.policy)
    trainer.checkpoints.restore("step_000001", trainer.learner)
    assert not torch.equal(weights(trainer.learner.policy), trained)


def test_collapse_returns_to_the_best_weights_that_could_be_saved(make_trainer):
    trainer = make_trainer([0.2, 0.9, 0.3, 0.3, 0.8], steps=4, dev=EVERY_STEP)
    trainer.checkpoints = Checkpoints(SlowStorage(trainer.checkpoints._storage, refused="step_000001"))
    state = trainer.run(TrainState())
    assert state.num_rollbacks == 1
    assert state.em_curve[-1] == [4, 0.8]


def test_what_was_written_of_a_checkpoint_that_failed_is_removed(make_trainer):
    trainer = make_trainer([0.3])
    storage = trainer.checkpoints._storage
    checkpoints = Checkpoints(SlowStorage(storage, refused="step_000007/policy_optimizer"))
    checkpoints.save(trainer.learner, TrainState(step=7), trainer.metrics_file)
    checkpoints.finish()
    assert not [info.key for info in storage.list() if info.key.startswith("step_000007/")]


@pytest.mark.parametrize("refused", ["delete", "delete_prefix"])
def test_place_that_cannot_be_cleared_is_a_failed_save_like_any_other(make_trainer, refused, capsys):
    trainer = make_trainer([0.3], steps=4)

    class RefusesOnce(SlowStorage):
        has_refused = False

        def __getattr__(self, name):
            return self._refuse if name == refused else super().__getattr__(name)

        def _refuse(self, key) -> None:
            if key.startswith("step_000002/") and not self.has_refused:
                self.has_refused = True
                raise StorageError("slow down")
            getattr(self._storage, refused)(key)

    trainer.checkpoints = Checkpoints(RefusesOnce(trainer.checkpoints._storage))
    assert trainer.run(TrainState()).step == 4
    assert "checkpoint step_000002 could not be saved (storage: slow down)" in capsys.readouterr().out
    assert trainer.checkpoints.complete()[-2:] == ["step_000003", "step_000004"]


def test_nothing_is_written_over_a_checkpoint_that_does_not_go(make_trainer):
    """Half of each would look complete."""
    trainer = make_trainer([0.3])
    storage = trainer.checkpoints._storage
    trainer.checkpoints.save(trainer.learner, TrainState(step=2, tokens=1), trainer.metrics_file)
    trainer.checkpoints.finish()
    before = {info.key: storage.get_bytes(info.key) for info in storage.list("step_000002")}

    class NothingGoes(SlowStorage):
        def delete(self, key) -> None:
            raise StorageError("access denied")

    checkpoints = Checkpoints(NothingGoes(storage))
    with torch.no_grad():
        next(trainer.learner.policy.parameters()).add_(1.0)
    checkpoints.save(trainer.learner, TrainState(step=2, tokens=2), trainer.metrics_file)
    checkpoints.finish()
    assert {info.key: storage.get_bytes(info.key) for info in storage.list("step_000002")} == before
