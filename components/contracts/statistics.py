"""Bootstrap intervals and paired differences of per-question scores: the only copy in the project.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Drawing n
scores with replacement equals one multinomial draw over the distinct scores, which makes 2,000 resamples
of 50,000 exact-match scores a matter of milliseconds. Equal arguments give equal results.

`groups` names the set of each score. With it every number is a macro average (the mean of the sets'
means, as in the paper's tables) and questions are resampled within their set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.contracts.errors import UserError

_CELLS_PER_DRAW = 1 << 22
"""Bounds the memory of one multinomial draw when every score is distinct."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much better `a` is than `b` on the same questions, with a bootstrap interval."""

    mean: float
    lo: float
    hi: float
    p_value: float
    """Two-sided: twice the smaller share of resamples on one side of zero; never exactly 0."""
    num_won: int
    """Questions where `a` scored higher."""
    num_lost: int
    """Questions where `b` scored higher."""
    num_questions: int


def macro_mean(values: Sequence[float], groups: Sequence[str] = ()) -> float:
    """Return the mean of the groups' means, or the plain mean without `groups`.

    Raises:
        UserError: there are no values, one is not finite, or `groups` has another length.
    """
    return float(np.mean([scores.mean() for scores in _by_group(values, groups)]))


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, resamples: int = 2000, level: float = 0.95, groups: Sequence[str] = ()
) -> tuple[float, float]:
    """Return the (lo, hi) percentile interval of the mean of `values` at confidence `level`.

    Raises:
        UserError: there are no values, one is not finite, or `groups` has another length.
    """
    means = _resampled_means(_by_group(values, groups), seed, resamples)
    return _interval(means, level)


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    groups: Sequence[str] = (),
) -> PairedDifference:
    """Return the mean of `a - b` with its interval; the scores at one position belong to one question.

    Raises:
        UserError: the lengths differ, there are no values, or one is not finite.
    """
    if len(a) != len(b):
        raise UserError(f"{len(a)} scores are paired with {len(b)}", allowed="one pair per question")
    difference = np.asarray(a, float) - np.asarray(b, float)
    by_group = _by_group(difference, groups)
    means = _resampled_means(by_group, seed, resamples)
    lo, hi = _interval(means, level)
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return PairedDifference(
        mean=float(np.mean([scores.mean() for scores in by_group])),
        lo=lo,
        hi=hi,
        p_value=min(1.0, 2 * (tail + 1) / (resamples + 1)),
        num_won=int((difference > 0).sum()),
        num_lost=int((difference < 0).sum()),
        num_questions=len(difference),
    )


def _by_group(values: Sequence[float] | NDArray, groups: Sequence[str]) -> list[NDArray]:
    scores = np.asarray(values, float)
    if not scores.size:
        raise UserError("There are no scores to average", remedy="evaluate at least one question")
    if not np.isfinite(scores).all():
        raise UserError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite numbers")
    if not len(groups):
        return [scores]
    if len(groups) != scores.size:
        raise UserError(f"{scores.size} scores have {len(groups)} group names", allowed="one name per score")
    names = np.asarray(groups)
    return [scores[names == name] for name in sorted(set(groups))]


def _resampled_means(by_group: list[NDArray], seed: int, resamples: int) -> NDArray:
    generator = np.random.default_rng(seed)
    return np.mean([_means_of_draws(scores, resamples, generator) for scores in by_group], axis=0)


def _means_of_draws(scores: NDArray, resamples: int, generator: np.random.Generator) -> NDArray:
    distinct, counts = np.unique(scores, return_counts=True)
    step = max(1, _CELLS_PER_DRAW // distinct.size)
    draws = [
        generator.multinomial(scores.size, counts / scores.size, size=min(step, resamples - start)) @ distinct
        for start in range(0, resamples, step)
    ]
    return np.concatenate(draws) / scores.size


def _interval(means: NDArray, level: float) -> tuple[float, float]:
    lo, hi = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)
