"""Progress over counted things: a bar on a terminal, a plain line with the time left every ten seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_LINE_EVERY_S = 10.0
_T = TypeVar("_T")


def counted(things: Iterable[_T], label: str, total: int) -> Iterator[_T]:
    """Yield `things` and show how many of `total` have been taken."""
    is_terminal = sys.stderr.isatty()
    started_s = last_line_s = time.monotonic()
    bar = tqdm(things, desc=label, total=total, delay=2.0, disable=not is_terminal)
    for done, thing in enumerate(bar):
        now_s = time.monotonic()
        if not is_terminal and done and now_s - last_line_s >= _LINE_EVERY_S:
            last_line_s = now_s
            left_s = (now_s - started_s) * (total / done - 1)
            print(f"{label}: {done:,} of {total:,}, {left_s:.0f} s left", flush=True)
        yield thing
