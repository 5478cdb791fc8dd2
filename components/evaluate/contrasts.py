"""Questions that one method answers and another does not: what stands behind a difference of two averages."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from components.evaluate.predictions import Prediction

Pair = tuple[Prediction, Prediction]


@dataclass(frozen=True)
class Contrast:
    """Search-R1 against one other method, question by question; a pair is (ours, theirs)."""

    num_won: int
    num_lost: int
    num_both_right: int
    num_both_wrong: int
    won: tuple[Pair, ...]
    """Some questions only we answered."""
    lost: tuple[Pair, ...]
    """Some questions only they answered."""


def contrast(ours: Sequence[Prediction], theirs: Sequence[Prediction], num_shown: int, seed: int) -> Contrast:
    """Return how often who was right, with up to `num_shown` questions of each kind of difference.

    Both hold the same questions in the same order. The questions shown are drawn by `seed` and stand in that order.
    """
    pairs = list(zip(ours, theirs, strict=True))
    won = [pair for pair in pairs if pair[0].em > pair[1].em]
    lost = [pair for pair in pairs if pair[0].em < pair[1].em]
    both_right = sum(a.em == b.em > 0 for a, b in pairs)
    return Contrast(
        num_won=len(won),
        num_lost=len(lost),
        num_both_right=both_right,
        num_both_wrong=len(pairs) - len(won) - len(lost) - both_right,
        won=_drawn(won, num_shown, seed),
        lost=_drawn(lost, num_shown, seed),
    )


def _drawn(pairs: list[Pair], count: int, seed: int) -> tuple[Pair, ...]:
    chosen = sorted(random.Random(seed).sample(range(len(pairs)), min(count, len(pairs))))
    return tuple(pairs[i] for i in chosen)
