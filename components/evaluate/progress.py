"""Progress over all questions of all methods: a bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_LINE_EVERY_S = 10.0
FORETELLING_FRAC = 0.01
"""Share of the answers from which on the time left is told."""


class AnswerProgress:
    """Counts finished answers; what was answered by an earlier attempt counts as done and not for the time left."""

    def __init__(self, total: int, label: str = "evaluate") -> None:
        self._label = label
        self._total, self._done, self._reused = total, 0, 0
        self._started_s = self._last_line_s = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit="question", delay=2.0, disable=not sys.stderr.isatty())

    def reuse(self, count: int) -> None:
        """Count answers that an earlier attempt left."""
        self._reused += count
        if not self._bar.disable:
            self._bar.initial += count
        self._count(count)

    def advance(self, count: int, doing: str = "") -> None:
        """Count new answers; `doing` names what they belong to."""
        if doing:
            self._bar.set_postfix_str(doing, refresh=False)
        self._count(count)
        now_s = time.monotonic()
        new = self._done - self._reused
        if self._bar.disable and new and now_s - self._last_line_s >= _LINE_EVERY_S and self._done < self._total:
            self._last_line_s = now_s
            left_s = (now_s - self._started_s) * (self._total - self._done) / new
            # The first answers come with the loading of models: they would foretell hours.
            left = f", {left_s:.0f} s left" if new >= FORETELLING_FRAC * self._total else ""
            of = f" ({doing})" if doing else ""
            print(f"{self._label}: {self._done:,} of {self._total:,} answers{of}{left}", flush=True)

    def _count(self, count: int) -> None:
        self._done += count
        self._bar.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if kind is None:
            kept = f", {self._reused:,} of them kept from before" if self._reused else ""
            took_s = time.monotonic() - self._started_s
            print(f"{self._label}: {self._done:,} answers in {took_s:.1f} s{kept}", flush=True)
