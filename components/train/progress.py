"""Progress of a training run: a bar with an ETA on a terminal, one plain line per step elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from components.train.checkpoint import TrainState

SHOWN = {"reward": "reward/mean", "searches": "rollout/num_searches/mean", "loss": "loss/imitation"}
"""Word -> metric, where a step has it."""


class TrainProgress:
    """Announces every step; `announce` is called after it."""

    def __init__(self, steps: int, done: int) -> None:
        self._steps, self._first, self._started_s = steps, done, time.monotonic()
        # A bar from the very start: the first step of a large model may take minutes.
        self._bar = tqdm(total=steps, initial=done, desc="train", unit="step") if sys.stderr.isatty() else None

    def announce(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Show the step that was just made."""
        shown = {name: metrics[key] for name, key in SHOWN.items() if key in metrics}
        shown["dev EM"] = state.em_curve[-1][1]
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()})
            self._bar.update(state.step - self._bar.n)
            return
        done = max(1, state.step - self._first)
        left_s = (time.monotonic() - self._started_s) / done * (self._steps - state.step)
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        print(f"step {state.step}/{self._steps}  {numbers}  {left_s:.0f} s left", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
