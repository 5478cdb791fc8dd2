"""A request to stop, heard by one rank and heeded by all of them at the next safe point."""

import signal
from types import FrameType, TracebackType
from typing import Self

from components.train.ranks import max_over_ranks


class StopRequest:
    """Notes SIGTERM while it is held, instead of dying of it in the middle of an update.

    Safe points are those where weights, moments and counters belong together: the end of a rollout, also of each that
    rejection sampling begins with and of a dev evaluation, every pass before the first optimizer step, and the end of a
    step. A rollout, the longest of all waits for one, is cut short.
    """

    def __init__(self) -> None:
        self._asked = False

    def heard(self) -> bool:
        """Return whether this rank was asked to stop; others may not know yet."""
        return self._asked

    def asked(self) -> bool:
        """Return whether any rank was asked to stop; a collective."""
        return bool(max_over_ranks({"asked": float(self._asked)})["asked"])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)
