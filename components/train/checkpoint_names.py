"""Which checkpoints of a run are complete; read without loading one."""

import re

from components.storage import Storage

COMPLETE = "_COMPLETE"
_NAME = re.compile(r"^(step_\d{6})/_COMPLETE$")


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after `step` steps."""
    return f"step_{step:06d}"


def complete_checkpoints(storage: Storage) -> list[str]:
    """Return the names of the complete checkpoints in a run's work prefix, oldest first.

    Raises:
        StorageError: the storage refuses.
    """
    found = (_NAME.match(info.key) for info in storage.list())
    return sorted(match[1] for match in found if match)
