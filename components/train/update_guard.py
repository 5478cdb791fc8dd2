"""Decides whether the gradients of an update are fit to be applied, and ends a training that keeps producing others."""

import math
from statistics import median
from typing import Any

from components.contracts.errors import TrainingStopped

WINDOW_UPDATES = 64
"""Remembered updates whose gradient norms make the running median."""
MIN_HISTORY_UPDATES = 16
"""So many must have been remembered before a norm can be called unusual."""
SMALLEST_NORM_FRAC = 0.01
"""Of the norm at which the optimizer clips: an update below it moves next to nothing."""


class UpdateGuard:
    """Remembers the gradient norms of applied updates and counts the skipped ones.

    Args:
        max_jump: Largest gradient norm as a multiple of the running median.
        max_skipped: Updates in a row that may be skipped.
        smallest_norm: A smaller one is not remembered. Where no episode earns anything, what is left is 0 or rounding:
            beside a median of that the first answer that is right would look like an explosion.
    """

    def __init__(self, max_jump: float, max_skipped: int, smallest_norm: float) -> None:
        self._max_jump, self._max_skipped, self._smallest_norm = max_jump, max_skipped, smallest_norm
        self._norms: list[float] = []
        self.skipped_in_a_row = 0

    def admits(self, policy_norm: float, *, finite: bool) -> bool:
        """Return whether to apply an update whose policy gradient has this norm before clipping.

        `finite` says that the loss and every other gradient are numbers. Every rank must pass the same values.

        Raises:
            TrainingStopped: more than `max_skipped` updates in a row were not fit.
        """
        if finite and math.isfinite(policy_norm) and not self._is_jump(policy_norm):
            self.skipped_in_a_row = 0
            if policy_norm >= self._smallest_norm:
                self._norms = [*self._norms, policy_norm][-WINDOW_UPDATES:]
            return True
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self._max_skipped:
            usual = f"usual {median(self._norms):.3g}" if self._norms else "nothing to compare it with"
            raise TrainingStopped(
                f"{self.skipped_in_a_row} updates in a row had a non-finite loss or gradient, or a gradient norm above "
                f"{self._max_jump:g} times the usual one (last {policy_norm:.3g}, {usual}); lower the learning rate"
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to decide alike, as JSON values."""
        return {"norms": list(self._norms), "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; an empty state is that of a new guard."""
        self._norms, self.skipped_in_a_row = list(state.get("norms", [])), state.get("skipped_in_a_row", 0)

    def _is_jump(self, norm: float) -> bool:
        return len(self._norms) >= MIN_HISTORY_UPDATES and norm > self._max_jump * median(self._norms)
