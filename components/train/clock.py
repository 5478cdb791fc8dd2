"""Where the time of a step went, and for how much of it the loop gave this rank's device nothing to do.

Told from the host, so that it means the same on a CPU and a GPU: a step of the engine is work from its beginning to
its end, and so is every part of the step in which the main thread computes with the model. Gaps within these, waits
for other ranks in the middle of them included, are not seen.
"""

import time
from types import TracebackType

from components.train.ranks import sum_over_ranks, world_size

HOST_PARTS = frozenset({"rollout", "reward", "ahead_wait"})
"""Parts of a step in which the main thread computes nothing with the model: work comes from the engine, or not at all.
"""


class WorkTime:
    """Seconds within its `with` blocks so far; one thread enters them, others may ask meanwhile."""

    def __init__(self) -> None:
        # One object, replaced as a whole: who asks from another thread never sees half of a change.
        self._ended_s_and_begun_at: tuple[float, float | None] = (0.0, None)

    def seconds(self) -> float:
        """Return the seconds so far, those of an open block included."""
        ended_s, begun_at = self._ended_s_and_begun_at
        return ended_s if begun_at is None else ended_s + time.monotonic() - begun_at

    def __enter__(self) -> None:
        self._ended_s_and_begun_at = (self._ended_s_and_begun_at[0], time.monotonic())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended_s_and_begun_at = (self.seconds(), None)


class Clock:
    """Seconds of each part of a step, and those of them without work for this rank's device.

    `engine_time` is that of the engine's steps, be they made in this thread or beside it.
    """

    def __init__(self, engine_time: WorkTime) -> None:
        self.laps: dict[str, float] = {}
        """Seconds by metric."""
        self._engine_time, self._idle_s = engine_time, 0.0
        self._last_s, self._last_engine_s = time.monotonic(), engine_time.seconds()

    def lap(self, name: str) -> None:
        """End the part `name`, or a further piece of it."""
        now_s, engine_s = time.monotonic(), self._engine_time.seconds()
        lap_s = now_s - self._last_s
        key = f"time/{name}_s"
        self.laps[key] = self.laps.get(key, 0.0) + lap_s
        if name in HOST_PARTS:
            # The two clocks are not read in the same instant.
            self._idle_s += max(0.0, lap_s - (engine_s - self._last_engine_s))
        self._last_s, self._last_engine_s = now_s, engine_s

    def metrics(self, save_s: float) -> dict[str, float]:
        """Return the seconds of the parts and `perf/gpu_idle_frac`, the mean over ranks; a collective.

        `save_s` is what the save before the step took: the device waits for all of it.
        """
        idle_frac = (self._idle_s + save_s) / (sum(self.laps.values()) + save_s)
        return self.laps | sum_over_ranks({"perf/gpu_idle_frac": idle_frac / world_size()})
