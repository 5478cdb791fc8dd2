"""Which checkpoints of a run are complete; read without loading one."""

import re
from collections.abc import Sequence

from components.storage import Storage

COMPLETE = "_COMPLETE"
_NAME = re.compile(r"^(step_\d{6})/_COMPLETE$")


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint after `step` steps."""
    return f"step_{step:06d}"


def best_first(best_step: int, em_curve: Sequence[Sequence[float]]) -> list[str]:
    """Return the names of the checkpoints of all dev evaluations [step, EM]; whether they exist is another matter."""
    by_em = sorted(((em, step) for step, em in em_curve), reverse=True)
    return [checkpoint_name(best_step), *(checkpoint_name(int(step)) for _, step in by_em)]


def complete_checkpoints(storage: Storage) -> list[str]:
    """Return the names of the complete checkpoints in a run's work prefix, oldest first.

    Raises:
        StorageError: the storage refuses.
    """
    found = (_NAME.match(info.key) for info in storage.list())
    return sorted(match[1] for match in found if match)
