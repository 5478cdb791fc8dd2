"""Progress of byte streams: a bar on a terminal, a plain line every ten seconds elsewhere, nothing when quick."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SILENT_S = 2.0
_LINE_EVERY_S = 10.0


class ByteProgress:
    """Counts bytes of one named job; `advance` may be called from several threads."""

    def __init__(self, label: str, total_bytes: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._label, self._total_bytes, self._done_bytes = label, max(total_bytes, 1), 0
        self._clock_s = clock_s
        self._started_s = self._last_line_s = clock_s()
        self._lock = threading.Lock()
        self._bar = tqdm(
            total=total_bytes, desc=label, unit="B", unit_scale=True, delay=_SILENT_S, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, num_bytes: int) -> None:
        """Count `num_bytes` more as done."""
        with self._lock:
            self._done_bytes += num_bytes
            self._bar.update(num_bytes)
            now_s = self._clock_s()
            if self._bar.disable and now_s - self._last_line_s >= _LINE_EVERY_S:
                self._last_line_s = now_s
                done = self._done_bytes / self._total_bytes
                left_s = (now_s - self._started_s) * (1 / done - 1) if done else float("inf")
                print(
                    f"{self._label}: {done:.0%} of {self._total_bytes / 1e6:,.0f} MB, {left_s:.0f} s left", flush=True
                )
