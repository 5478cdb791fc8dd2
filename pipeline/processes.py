"""Start nothing that outlives us: find and stop every process below this one (Linux, /proc).

A process that starts others calls `adopt_orphans` first, so that a grandchild whose parent died is
re-parented here and stays findable; a child calls `die_with_parent`, so that even a SIGKILL of the
parent reaches it.
"""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_ENDED = -1


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Receive SIGTERM when the process `parent_pid`, which started this one, ends; exit now if it already has."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        os._exit(128 + signal.SIGTERM)


def alive(pid: int) -> bool:
    """Return whether the process exists and has not ended."""
    return _parent_of(pid) != _ENDED


def descendants(root: int | None = None) -> set[int]:
    """Return the ids of all living processes below `root` (this process by default)."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        parent = _parent_of(pid)
        if parent != _ENDED:
            children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    unseen = [os.getpid() if root is None else root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found.update(below)
        unseen.extend(below)
    return found


def stop_descendants(grace_s: float, spare: frozenset[int] = frozenset()) -> None:
    """Return when no process below this one is left, except those in `spare`.

    SIGTERM first, so that training can save; SIGKILL for whoever is still there after `grace_s`.
    """
    deadline_s = time.monotonic() + grace_s
    asked: set[int] = set()
    while living := descendants() - spare:
        kill = time.monotonic() >= deadline_s
        for pid in living if kill else living - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        asked |= living
        time.sleep(0.05)


def _parent_of(pid: int) -> int:
    """Return the parent's id, or `_ENDED`, also for a zombie that waits for its parent."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return _ENDED
    # The command name, in parentheses, may hold anything: the fields are counted from its end.
    state, parent, *_ = text.rpartition(")")[2].split()
    return _ENDED if state in "ZX" else int(parent)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
