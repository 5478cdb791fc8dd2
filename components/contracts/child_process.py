"""Child processes that do not outlive the one that started them (Linux)."""

import ctypes
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded here, not in the child: between fork and exec a process with threads may only call what is there already.
_libc = ctypes.CDLL(None, use_errno=True)


def ended_with_parent(signal_number: int) -> Callable[[], None]:
    """Return a `preexec_fn` that has the kernel send `signal_number` to the child when the parent's thread dies."""

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal_number)

    return ask
