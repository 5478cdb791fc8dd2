"""A linear axis: round ticks, positions in drawing units, numbers short enough for a label."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Maps `[lo, hi]` to drawing units `[start, end]` (`end` may be smaller: y grows downwards)."""

    lo: float
    hi: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return the drawing unit of `value`."""
        return self.start + (value - self.lo) / (self.hi - self.lo) * (self.end - self.start)


def round_ticks(lo: float, hi: float, about: int = 4) -> list[float]:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten that cover `[lo, hi]`, ends included.

    Equal bounds are widened, so that a constant series has an axis too. Both must be finite.
    """
    if hi - lo < 1e-12 * max(1.0, abs(lo), abs(hi)):
        lo, hi = (lo - abs(lo) * 0.1, hi + abs(hi) * 0.1) if lo else (0.0, 1.0)
    rough = (hi - lo) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= 0.75 * rough)
    first, last = math.floor(lo / step + 1e-9), math.ceil(hi / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short_number(value: float) -> str:
    """Return about three significant digits: `0.43`, `1,240`, `2.1M`, `3e-05`."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 100 or value == 0 or (size >= 1 and float(value).is_integer()):
        return f"{value:,.0f}"
    return f"{value:.3g}"
