"""Progress over questions: a bar on a terminal, a plain line with the time left every ten seconds elsewhere."""

import sys
import time

from tqdm import tqdm

_LINE_EVERY_S = 10.0


class QuestionProgress:
    """Counts answered questions of one method."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._started_s = self._last_line_s = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit="question", delay=2.0, disable=not sys.stderr.isatty())

    def advance(self) -> None:
        """Count one more question."""
        self._done += 1
        self._bar.update(1)
        now_s = time.monotonic()
        if self._bar.disable and now_s - self._last_line_s >= _LINE_EVERY_S and self._done < self._total:
            self._last_line_s = now_s
            left_s = (now_s - self._started_s) * (self._total / self._done - 1)
            print(f"{self._label}: {self._done:,} of {self._total:,} questions, {left_s:.0f} s left", flush=True)

    def close(self) -> float:
        """Say that all is done and return the seconds it took."""
        self._bar.close()
        wall_s = time.monotonic() - self._started_s
        print(f"{self._label}: {self._done:,} questions in {wall_s:.1f} s", flush=True)
        return wall_s
