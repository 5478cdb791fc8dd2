"""Atomic checkpoints of everything a resumed run needs to end with the same bits.

Layout below the work prefix: `step_000040/policy-00000-of-00002.safetensors` and so on for every part and rank,
`state.json`, `metrics.jsonl`, and `_COMPLETE` last; a folder without it does not exist for the reader. Tensors are
safetensors, the rest is JSON: nothing is ever unpickled. Sampling and minibatch order are functions of (seed, step),
so no generator state has to be kept. A run on as many ranks as before ends with the same bits; on another number the
same weights and moments are cut anew.

Saving copies the tensors and goes on training; a thread writes them. A save that fails leaves the previous checkpoint
the newest one and is reported; training stops when saving fails again and again.
"""

import json
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from components.contracts.episode import Episode
from components.contracts.errors import ManifestError, SearchError, StoppedBySignal, StorageError, TrainingStopped
from components.storage import Storage
from components.train.checkpoint_names import COMPLETE, best_first, checkpoint_name, complete_checkpoints
from components.train.learner import Learner
from components.train.ranks import in_turns, rank, sum_over_ranks, world_size
from components.train.shards import ShardReader, check_parts, load_part, part_names, ranks_to_read, shards_of

MAX_FAILED_SAVES = 2
"""More saves in a row that fail stop the training: what it learns could be lost at any moment."""
ERRORS_OF_ALL_RANKS = (TrainingStopped, SearchError, StoppedBySignal)
"""They follow from numbers and episodes that every rank has, so that no rank meets one alone."""
_SHARD = re.compile(r"^(?P<part>\w+)-(?P<rank>\d{5})-of-(?P<world>\d{5})\.safetensors$")


@dataclass(slots=True)
class TrainState:
    """Where training stands, apart from weights and optimizer moments."""

    step: int = 0
    """Steps done."""
    best_step: int = -1
    best_dev_em: float = -1.0
    em_curve: list[list[float]] = field(default_factory=list)
    """[step, dev EM] of every dev evaluation."""
    drops_in_a_row: int = 0
    was_valid: bool = False
    """Whether valid actions have ever been common."""
    invalid_in_a_row: int = 0
    was_whole: bool = False
    """Whether truncated episodes have ever been rare."""
    truncated_in_a_row: int = 0
    correct_logprobs: list[float] = field(default_factory=list)
    """Mean log-probability of right episodes, of each training step since the last dev evaluation."""
    logprob_curve: list[float] = field(default_factory=list)
    """The mean of these at the latest dev evaluations."""
    mismatch_in_a_row: int = 0
    update_guard: dict[str, Any] = field(default_factory=dict)
    """State of the learner's `UpdateGuard`."""
    num_rollbacks: int = 0
    rate_scale: float = 1.0
    rl_s: float = 0.0
    """Seconds of training, over all attempts; steps that were lost and made again count once."""
    tokens: int = 0
    """Model tokens trained on."""
    ahead: list[Episode] = field(default_factory=list)
    """Episodes of the next step that were sampled beside the last update, with weights no checkpoint holds."""
    ahead_s: float = 0.0
    """Seconds it took to sample them."""
    unfinished: dict[str, float] = field(default_factory=dict)
    """Metrics of the newest step, until its dev evaluation is made and they are logged."""


_STATE = TypeAdapter(TrainState)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What one rank writes; rank 0 brings the state and the metrics."""

    name: str
    parts: dict[str, dict[str, torch.Tensor]]
    texts: dict[str, bytes]
    best_first: list[str]
    """Checkpoints of all dev evaluations; whether they could be saved is another matter."""


class Checkpoints:
    """Checkpoints of one run in `storage`, newest complete one first; keeps the newest two and the best.

    With several ranks every method is a collective.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._writer: threading.Thread | None = None
        self._snapshot: _Snapshot | None = None
        self._error: Exception | None = None
        self._failed_in_a_row = 0

    def complete(self) -> list[str]:
        """Return the names of complete checkpoints, oldest first: those that the first rank sees.

        A folder that is not shared, or is but with listings that lag behind, shows others something else: they would
        begin at another step, in silence.
        """
        self.finish()
        return in_turns(complete_checkpoints(self._storage) if rank() == 0 else [])

    def save(self, learner: Learner, state: TrainState, metrics_file: Path) -> None:
        """Copy `learner` and write it beside the training; until the last file is there the previous one is the newest.

        Raises:
            StorageError: more than `MAX_FAILED_SAVES` saves in a row have failed, the last one being the previous.
        """
        self.finish()
        texts = {"state.json": json.dumps(_STATE.dump_python(state)).encode()} if rank() == 0 else {}
        if metrics_file.exists():
            texts[metrics_file.name] = metrics_file.read_bytes()
        name, ranking = checkpoint_name(state.step), best_first(state.best_step, state.em_curve)
        self._snapshot = _Snapshot(name, shards_of(learner), texts if rank() == 0 else {}, ranking)
        # A return to the best weights writes the newest checkpoint again: half of each must not look complete. Where
        # the old one does not go nobody writes, and the save has failed like any other.
        self._error = self._try(partial(self._remove, name)) if rank() == 0 else None
        write = (lambda: None) if _anywhere(self._error) else partial(self._write, self._snapshot)
        self._writer = threading.Thread(target=write, name=f"save {name}")
        self._writer.start()

    def poll(self) -> None:
        """Complete the last save if every rank has written its part by now."""
        if self._writer is not None and not sum_over_ranks({"busy": float(self._writer.is_alive())})["busy"]:
            self.finish()

    def finish(self) -> None:
        """Wait for the last save and complete it.

        Raises:
            StorageError: as for `save`.
        """
        if self._writer is None or self._snapshot is None:
            return
        self._writer.join()
        snapshot, self._writer, self._snapshot = self._snapshot, None, None
        error, self._error = self._error, None
        if not _anywhere(error) and world_size() > 1:
            error = self._try(lambda: self._commit(snapshot)) if rank() == 0 else None
        if not _anywhere(error):
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if rank() == 0:
            # What was written of it takes room that the next one may need.
            self._try(lambda: self._remove(snapshot.name))
        reason = error or "another rank could not write"
        if rank() == 0:
            print(f"checkpoint {snapshot.name} could not be saved ({reason}); the last one stays", flush=True)
        if self._failed_in_a_row > MAX_FAILED_SAVES:
            raise StorageError(f"{self._failed_in_a_row} checkpoints in a row could not be saved: {reason}")

    def finish_after(self, error: BaseException) -> None:
        """Complete the last save, if it can be, before a run ends with `error`; a failure to save becomes a note on it.

        Ranks complete a save together: with several of them only after an error that all of them meet.
        """
        if world_size() > 1 and not isinstance(error, ERRORS_OF_ALL_RANKS):
            if self._writer is not None:
                self._writer.join()
            return
        try:
            self.finish()
        except StorageError as failure:
            error.add_note(f"and the last checkpoint is not complete: {failure}")

    def restore_metrics(self, name: str, metrics_file: Path) -> None:
        """Fetch the metrics saved with checkpoint `name`, unless this machine still has its own file."""
        key = f"{name}/{metrics_file.name}"
        if not metrics_file.exists() and self._storage.exists(key):
            self._storage.get_file(key, metrics_file)

    def restore_best(self, state: TrainState, learner: Learner) -> None:
        """Load the best weights there are and make `state` say which these are.

        They are those of the best dev evaluation, unless they could not be saved: then the next best.

        Raises:
            StorageError: not one checkpoint could be saved.
        """
        complete = self.complete()
        if state.best_step == state.step:
            return
        kept = [(em, int(step)) for step, em in state.em_curve if checkpoint_name(int(step)) in complete]
        if not kept:
            raise StorageError("not one checkpoint of a dev evaluation could be saved, so there is no best one")
        state.best_dev_em, state.best_step = max(kept)
        self.restore(checkpoint_name(state.best_step), learner)

    def restore(self, name: str, learner: Learner) -> TrainState:
        """Load checkpoint `name` into `learner` and return its state.

        Raises:
            ManifestError: files are missing or damaged, or they are those of another model or algorithm.
        """
        self.finish()
        keys_of = self._shards(name)
        check_parts(learner, keys_of)
        try:
            for part in sorted(part_names(learner)):
                self._load(learner, part, keys_of[part])
            state = _STATE.validate_python(json.loads(self._storage.get_bytes(f"{name}/state.json")))
        except (SafetensorError, json.JSONDecodeError, ValidationError) as error:
            raise self._unusable(name, f"is damaged ({error})") from error
        learner.rate_scale = state.rate_scale
        learner.guard.load_state_dict(state.update_guard)
        return state

    def _shards(self, name: str) -> dict[str, list[str]]:
        """Return part -> keys of its files, in the order of the ranks that saved them."""
        found: dict[str, dict[int, str]] = {}
        ranks_then = 0
        for info in self._storage.list(f"{name}/"):
            if match := _SHARD.match(Path(info.key).name):
                found.setdefault(match["part"], {})[int(match["rank"])] = info.key
                ranks_then = int(match["world"])
        if not found or any(len(keys) != ranks_then for keys in found.values()):
            raise self._unusable(name, "lacks files of some ranks")
        return {part: [key for _, key in sorted(keys.items())] for part, keys in found.items()}

    def _unusable(self, name: str, why: str) -> ManifestError:
        # An older one is not taken by itself: a person decides that steps are lost.
        return ManifestError(
            f"Checkpoint {name} at {self._storage.uri()} {why}",
            remedy=f"delete the folder {self._storage.uri(name)} and start again: the checkpoint before it is taken",
        )

    def _load(self, learner: Learner, part: str, keys: list[str]) -> None:
        """Load `part` from what this rank needs of it; the disk holds one part at a time."""
        with tempfile.TemporaryDirectory() as scratch:
            files = {number: Path(scratch) / str(number) for number in ranks_to_read(learner, part, len(keys))}
            for number, file in files.items():
                self._storage.get_file(keys[number], file)
            load_part(learner, part, ShardReader(files, len(keys)))

    def _write(self, snapshot: _Snapshot) -> None:
        """Write this rank's part beside the training and keep a failure for `finish`."""
        self._error = self._try(lambda: self._store(snapshot))

    def _try(self, work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except Exception as error:
            return error
        return None

    def _store(self, snapshot: _Snapshot) -> None:
        for name, content in snapshot.texts.items():
            self._storage.put_bytes(content, f"{snapshot.name}/{name}")
        for part, tensors in snapshot.parts.items():
            file = f"{part}-{rank():05d}-of-{world_size():05d}.safetensors"
            with tempfile.TemporaryDirectory() as scratch:
                save_file(tensors, Path(scratch) / file)
                self._storage.take_file(Path(scratch) / file, f"{snapshot.name}/{file}")
        if world_size() == 1:
            self._commit(snapshot)

    def _commit(self, snapshot: _Snapshot) -> None:
        self._storage.put_bytes(b"", f"{snapshot.name}/{COMPLETE}")
        if error := self._try(partial(self._prune, snapshot.best_first)):
            print(f"older checkpoints could not be removed ({error})", flush=True)

    def _prune(self, best_first: list[str]) -> None:
        complete = complete_checkpoints(self._storage)
        best = next((name for name in best_first if name in complete), "")
        for name in complete[:-2]:
            if name != best:
                self._remove(name)

    def _remove(self, name: str) -> None:
        # The marker goes first: a half-deleted checkpoint must not look complete.
        self._storage.delete(f"{name}/{COMPLETE}")
        self._storage.delete_prefix(f"{name}/")


def _anywhere(error: Exception | None) -> bool:
    """Return whether any rank has an error; a collective."""
    return bool(sum_over_ranks({"failed": float(error is not None)})["failed"])
