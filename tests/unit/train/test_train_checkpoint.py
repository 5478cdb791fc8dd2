"""A resumed run must find exactly what was saved, and never what was saved halfway."""

import random
import resource
import threading
from pathlib import Path

import pytest
import torch

from components.contracts.episode import SearchRecord
from components.contracts.errors import ManifestError, StorageError
from components.contracts.passage import Passage, ScoredPassage
from components.storage import open_storage
from components.train.checkpoint import Checkpoints, TrainState
from tests.unit.train.conftest import invented_episode


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"file://{tmp_path}/work")


@pytest.fixture
def checkpoints(storage):
    return Checkpoints(storage)


@pytest.fixture
def metrics_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n')
    return path


class StorageThatDies:
    """Passes everything on until it was asked to store its `last_file`-th file."""

    def __init__(self, storage, last_file):
        self.storage, self.left = storage, last_file

    def __getattr__(self, name):
        return getattr(self.storage, name)

    def take_file(self, local, key):
        self._count()
        self.storage.take_file(local, key)

    def put_bytes(self, data, key):
        self._count()
        self.storage.put_bytes(data, key)

    def _count(self):
        if not self.left:
            raise StorageError("disk full")
        self.left -= 1


def trained(make_learner, make_experience, seed, updates=2):
    learner = make_learner(seed)
    for step in range(updates):
        train_once(learner, make_experience(seed=step), step)
    return learner


def train_once(learner, experience, step):
    from components.train.experience import advantages_and_returns
    from components.train.learner import Targets

    old_M, values_M, reference_M = learner.score(experience)
    kl_M = (old_M - reference_M).double().numpy()
    found = advantages_and_returns(experience, values_M.double().numpy(), kl_M, learner.config)
    advantages_M, returns_M, keep_M = (torch.from_numpy(array) for array in found)
    learner.update(
        experience, Targets(old_M, values_M, reference_M, advantages_M.float(), returns_M.float(), keep_M), step
    )


def bits(learner):
    tensors = [tensor for module in learner.modules().values() for tensor in module.state_dict().values()]
    moments = [
        value
        for optimizer in learner.optimizers.values()
        for _, entry in sorted(optimizer.state_dict()["state"].items())
        for _, value in sorted(entry.items())
    ]
    return tensors + moments


def test_episodes_ahead_come_back_as_they_were(checkpoints, metrics_file, make_learner):
    episodes = [invented_episode(random.Random(seed), f"q{seed}") for seed in range(3)]
    for episode in episodes:
        episode.searches.append(SearchRecord("x", [ScoredPassage(Passage("7", '"T"\ntext'), 1 / 3)], 0.1, "late"))
        episode.logprobs[-1] = float(torch.tensor(-1 / 3))
    state = TrainState(step=1, ahead=episodes, ahead_s=0.1)
    checkpoints.save(make_learner(), state, metrics_file)
    assert checkpoints.restore("step_000001", make_learner()) == state


def test_restored_learner_has_the_same_bits_and_goes_on_the_same_way(
    checkpoints, metrics_file, make_learner, make_experience
):
    learner = trained(make_learner, make_experience, seed=0)
    state = TrainState(step=2, best_step=0, best_dev_em=0.25, em_curve=[[0, 0.25]], rate_scale=0.5, rl_s=1.5, tokens=9)
    checkpoints.save(learner, state, metrics_file)
    other = trained(make_learner, make_experience, seed=1, updates=3)
    assert not all(torch.equal(a, b) for a, b in zip(bits(learner), bits(other), strict=True))
    assert checkpoints.restore("step_000002", other) == state
    assert other.rate_scale == learner.rate_scale * 0.5
    assert all(torch.equal(a, b) for a, b in zip(bits(learner), bits(other), strict=True))
    learner.rate_scale = other.rate_scale
    # The reference is the base model of the run and no part of a checkpoint.
    other.reference = learner.reference
    for each in (learner, other):
        train_once(each, make_experience(seed=5), 2)
    assert all(torch.equal(a, b) for a, b in zip(bits(learner), bits(other), strict=True))


def test_restored_learner_holds_no_file(
    checkpoints, metrics_file, make_learner, make_experience, monkeypatch, tmp_path
):
    """A deleted file that lies in memory would keep its room on the disk to the end of the run."""
    checkpoints.save(trained(make_learner, make_experience, seed=0), TrainState(step=2), metrics_file)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = trained(make_learner, make_experience, seed=1)
    checkpoints.restore("step_000002", other)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_one_part_at_a_time_lies_on_the_disk(storage, metrics_file, make_learner, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fetched = []

    class Watched:
        def __getattr__(self, name):
            return getattr(storage, name)

        def get_file(self, key, local):
            storage.get_file(key, local)
            fetched.append([path for path in tmp_path.glob("tmp*/*") if path.is_file()])

    checkpoints = Checkpoints(Watched())
    checkpoints.save(make_learner(), TrainState(step=1), metrics_file)
    checkpoints.restore("step_000001", make_learner())
    assert [len(files) for files in fetched] == [1, 1, 1, 1]


def test_complete_checkpoints_are_found_oldest_first(checkpoints, metrics_file, make_learner):
    assert checkpoints.complete() == []
    learner = make_learner()
    for step in (9, 10):
        checkpoints.save(learner, TrainState(step=step), metrics_file)
    assert checkpoints.complete() == ["step_000009", "step_000010"]


@pytest.mark.parametrize("files_stored", [0, 1, 3, 5])
def test_checkpoint_that_could_not_be_written_whole_does_not_exist(
    storage, checkpoints, metrics_file, make_learner, files_stored, capsys
):
    learner = make_learner()
    checkpoints.save(learner, TrainState(step=1), metrics_file)
    checkpoints.finish()
    failing = Checkpoints(StorageThatDies(storage, files_stored))
    failing.save(learner, TrainState(step=2), metrics_file)
    assert failing.complete() == ["step_000001"]
    assert "step_000002 could not be saved (storage: disk full)" in capsys.readouterr().out


def test_a_disk_that_takes_no_more_leaves_the_previous_checkpoint(
    storage, checkpoints, metrics_file, make_learner, capsys
):
    """The system itself refuses, in the middle of a file."""
    learner = make_learner()
    checkpoints.save(learner, TrainState(step=1), metrics_file)
    checkpoints.finish()
    before, other = bits(learner), make_learner(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        checkpoints.save(other, TrainState(step=2), metrics_file)
        checkpoints.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "checkpoint step_000002 could not be saved" in capsys.readouterr().out
    assert checkpoints.complete() == ["step_000001"]
    assert not [info.key for info in storage.list() if info.key.startswith("step_000002/")]
    checkpoints.restore("step_000001", other)
    assert all(torch.equal(a, b) for a, b in zip(bits(other), before, strict=True))


def test_checkpoint_that_failed_while_it_was_overwritten_does_not_exist(
    storage, checkpoints, metrics_file, make_learner
):
    for step in (1, 2):
        checkpoints.save(make_learner(0), TrainState(step=step), metrics_file)
    assert checkpoints.complete() == ["step_000001", "step_000002"]
    failing = Checkpoints(StorageThatDies(storage, 2))
    failing.save(make_learner(1), TrainState(step=2), metrics_file)
    assert failing.complete() == ["step_000001"]


def test_training_goes_on_after_a_failed_save_and_stops_after_three(storage, metrics_file, make_learner):
    dying = StorageThatDies(storage, 0)
    failing, learner = Checkpoints(dying), make_learner()
    for step in (1, 2):
        failing.save(learner, TrainState(step=step), metrics_file)
    dying.left = 100
    failing.save(learner, TrainState(step=3), metrics_file)
    assert failing.complete() == ["step_000003"]
    dying.left = 0
    for step in (4, 5, 6):
        failing.save(learner, TrainState(step=step), metrics_file)
    with pytest.raises(StorageError, match="3 checkpoints in a row"):
        failing.finish()


def test_saving_copies_what_training_changes_next(storage, metrics_file, make_learner, make_experience):
    has_trained = threading.Event()

    class Waits:
        """Writes nothing before the training has gone on."""

        def __getattr__(self, name):
            return getattr(storage, name)

        def put_bytes(self, data, key):
            assert has_trained.wait(30)
            storage.put_bytes(data, key)

    checkpoints, learner = Checkpoints(Waits()), trained(make_learner, make_experience, seed=0)
    before = [tensor.clone() for tensor in bits(learner)]
    checkpoints.save(learner, TrainState(step=2), metrics_file)
    train_once(learner, make_experience(seed=4), 2)
    has_trained.set()
    assert not all(torch.equal(a, b) for a, b in zip(bits(learner), before, strict=True))
    other = make_learner(1)
    checkpoints.restore("step_000002", other)
    assert all(torch.equal(a, b) for a, b in zip(bits(other), before, strict=True))


def test_checkpoint_without_the_files_of_a_rank_is_refused(storage, checkpoints, metrics_file, make_learner):
    checkpoints.save(make_learner(), TrainState(step=1), metrics_file)
    checkpoints.finish()
    storage.put_bytes(storage.get_bytes("step_000001/policy-00000-of-00001.safetensors"),
                      "step_000001/policy-00001-of-00003.safetensors")  # fmt: skip
    with pytest.raises(ManifestError, match="lacks files of some ranks"):
        checkpoints.restore("step_000001", make_learner())


@pytest.mark.parametrize("file", ["policy-00000-of-00001.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_with_the_way_back(storage, checkpoints, metrics_file, make_learner, file):
    for step in (1, 2):
        checkpoints.save(make_learner(), TrainState(step=step), metrics_file)
    checkpoints.finish()
    storage.put_bytes(storage.get_bytes(f"step_000002/{file}")[:-9], f"step_000002/{file}")
    with pytest.raises(ManifestError, match=r"step_000002 at .* is damaged") as raised:
        checkpoints.restore(checkpoints.complete()[-1], make_learner())
    assert f"delete the folder {storage.uri('step_000002')}" in str(raised.value)
    storage.delete_prefix("step_000002/")
    assert checkpoints.restore(checkpoints.complete()[-1], make_learner()).step == 1


def test_pruning_keeps_the_newest_two_and_the_best(storage, checkpoints, metrics_file, make_learner):
    learner = make_learner()
    for step in range(6):
        checkpoints.save(learner, TrainState(step=step, best_step=min(step, 2)), metrics_file)
    assert checkpoints.complete() == ["step_000002", "step_000004", "step_000005"]
    assert {info.key.split("/")[0] for info in storage.list()} == {"step_000002", "step_000004", "step_000005"}


def test_old_checkpoint_of_which_half_was_removed_does_not_exist(storage, metrics_file, make_learner):
    class HalfGoes:
        def __getattr__(self, name):
            return getattr(storage, name)

        def delete_prefix(self, prefix):
            for info in storage.list(prefix):
                if "critic" in info.key:
                    storage.delete(info.key)
                    raise StorageError("slow down")

    checkpoints, learner = Checkpoints(HalfGoes()), make_learner()
    for step in range(3):
        checkpoints.save(learner, TrainState(step=step), metrics_file)
    assert checkpoints.complete() == ["step_000001", "step_000002"]
    assert storage.exists("step_000000/state.json"), "all of it has gone"


def test_old_checkpoint_that_cannot_be_removed_spoils_no_new_one(storage, metrics_file, make_learner, capsys):
    class NothingGoes:
        def __getattr__(self, name):
            return getattr(storage, name)

        def delete_prefix(self, prefix):
            if storage.list(prefix):
                raise StorageError("access denied")

    checkpoints, learner = Checkpoints(NothingGoes()), make_learner()
    for step in range(5):
        checkpoints.save(learner, TrainState(step=step), metrics_file)
    assert checkpoints.complete()[-2:] == ["step_000003", "step_000004"]
    told = capsys.readouterr().out
    assert "older checkpoints could not be removed (storage: access denied)" in told
    assert "could not be saved" not in told


def test_a_bucket_serves_as_well_as_a_disk(s3_root, metrics_file, make_learner):
    checkpoints, learner = Checkpoints(open_storage(f"{s3_root}/work")), make_learner()
    for step in range(4):
        checkpoints.save(learner, TrainState(step=step, best_step=0), metrics_file)
    assert checkpoints.complete() == ["step_000000", "step_000002", "step_000003"]
    other = make_learner(1)
    assert checkpoints.restore("step_000003", other).step == 3
    assert all(torch.equal(a, b) for a, b in zip(bits(learner), bits(other), strict=True))


def test_metrics_come_back_only_where_the_machine_has_none(checkpoints, metrics_file, tmp_path, make_learner):
    checkpoints.save(make_learner(), TrainState(step=1), metrics_file)
    checkpoints.finish()
    fresh = tmp_path / "other machine" / "metrics.jsonl"
    checkpoints.restore_metrics("step_000001", fresh)
    assert fresh.read_text() == metrics_file.read_text()
    metrics_file.write_text("newer")
    checkpoints.restore_metrics("step_000001", metrics_file)
    assert metrics_file.read_text() == "newer"


def test_nothing_is_pickled(storage, checkpoints, metrics_file, make_learner):
    checkpoints.save(make_learner(), TrainState(step=1), metrics_file)
    checkpoints.finish()
    assert {info.key.rsplit(".", 1)[-1] for info in storage.list()} == {
        "safetensors",
        "json",
        "jsonl",
        "step_000001/_COMPLETE",
    }
