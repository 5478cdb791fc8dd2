"""Goes on from the checkpoints of another training, such as one on another number of ranks."""

import json
import tempfile
from pathlib import Path

from components.contracts.errors import ConfigError
from components.storage import Storage, open_storage
from components.train.checkpoint_names import COMPLETE, best_first, complete_checkpoints
from components.train.kept_episodes import FOLDER as KEPT_EPISODES

_STATE = "state.json"
_FRESH = {
    "ahead": [],
    "ahead_s": 0.0,
    "drops_in_a_row": 0,
    "invalid_in_a_row": 0,
    "truncated_in_a_row": 0,
    "mismatch_in_a_row": 0,
    "correct_logprobs": [],
    "logprob_curve": [],
    "num_rollbacks": 0,
}
"""What stays behind of a training's state. Episodes sampled ahead: other settings may ask other questions in that step,
or want none. Alarms: a training that a rule has ended would end at once again, whatever was changed to help it."""
UNDER_WAY = "_CONTINUING"
"""Lies beside the checkpoints from before the first of them is copied until after the last one is."""


def must_take_over(storage: Storage) -> bool:
    """Return whether `storage` holds no checkpoint yet, or not all of those that were to be copied there.

    Raises:
        StorageError: the storage refuses.
    """
    return storage.exists(UNDER_WAY) or not complete_checkpoints(storage)


def take_over(storage: Storage, uri: str) -> None:
    """Copy the newest and the best complete checkpoint at `uri` to `storage`; one rank does it for all.

    What the base model got right (rejection sampling) comes along: nobody has its weights any more.

    The best one alone would look like a training that stands where it was best: `must_take_over` tells.

    Raises:
        ConfigError: there is none.
        StorageError: one of the two storages refuses.
    """
    theirs = open_storage(uri)
    complete = complete_checkpoints(theirs)
    if not complete:
        raise ConfigError(
            f"train.continue_from = {uri!r} holds no complete checkpoint",
            "the folder <storage root>/work/train/<key> of a training that has saved one",
            'take the address that training printed when it began, or set train.continue_from = ""',
        )
    state = json.loads(theirs.get_bytes(f"{complete[-1]}/{_STATE}"))
    best = next(name for name in best_first(state["best_step"], state["em_curve"]) if name in complete)
    storage.put_bytes(b"", UNDER_WAY)
    _copy(theirs, storage, KEPT_EPISODES)
    for name in dict.fromkeys((best, complete[-1])):
        _copy(theirs, storage, name)
        _copy_state(theirs, storage, name)
        storage.put_bytes(b"", f"{name}/{COMPLETE}")
    storage.delete(UNDER_WAY)
    print(f"continuing from {complete[-1]} of {uri}", flush=True)


def _copy(theirs: Storage, ours: Storage, folder: str) -> None:
    keys = [info.key for info in theirs.list(f"{folder}/") if not info.key.endswith((COMPLETE, _STATE))]
    for key in keys:
        with tempfile.TemporaryDirectory(prefix="continue-") as scratch:
            file = Path(scratch) / "file"
            theirs.get_file(key, file)
            ours.take_file(file, key)


def _copy_state(theirs: Storage, ours: Storage, name: str) -> None:
    state = json.loads(theirs.get_bytes(f"{name}/{_STATE}"))
    ours.put_bytes(json.dumps(state | _FRESH).encode(), f"{name}/{_STATE}")
