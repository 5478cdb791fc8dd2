"""Goes on from the checkpoints of another training, such as one on another number of ranks."""

import json
import tempfile
from pathlib import Path

from components.contracts.errors import ConfigError
from components.storage import Storage, open_storage
from components.train.checkpoint_names import COMPLETE, best_first, complete_checkpoints


def take_over(storage: Storage, uri: str) -> None:
    """Copy the newest and the best complete checkpoint at `uri` to `storage`; one rank does it for all.

    The newest comes last and makes them whole: whoever finds it finds the one it would return to.

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
    state = json.loads(theirs.get_bytes(f"{complete[-1]}/state.json"))
    best = next(name for name in best_first(state["best_step"], state["em_curve"]) if name in complete)
    for name in dict.fromkeys((best, complete[-1])):
        _copy(theirs, storage, name)
    print(f"continuing from {complete[-1]} of {uri}", flush=True)


def _copy(theirs: Storage, ours: Storage, name: str) -> None:
    keys = [info.key for info in theirs.list(f"{name}/") if not info.key.endswith(COMPLETE)]
    for key in keys:
        with tempfile.TemporaryDirectory(prefix="continue-") as scratch:
            file = Path(scratch) / "file"
            theirs.get_file(key, file)
            ours.take_file(file, key)
    ours.put_bytes(b"", f"{name}/{COMPLETE}")
