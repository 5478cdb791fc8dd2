"""Bootstrap numbers against a slow loop and the exact binomial distribution."""

import math
import random
import time

import numpy as np
import pytest

from components.contracts.errors import UserError
from components.contracts.statistics import bootstrap_interval, macro_mean, paired_difference


def slow_interval(values: list[float], resamples: int = 2000) -> tuple[float, float]:
    draw = random.Random(3)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def binomial_quantile(n: int, p: float, level: float) -> int:
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= level:
            return k
    return n


@pytest.mark.parametrize(
    ("correct", "n", "level"),
    [
        pytest.param(50, 125, 0.95, id="bamboogle"),
        pytest.param(200, 250, 0.95, id="good set"),
        pytest.param(200, 250, 0.5, id="another level"),
    ],
)
def test_interval_of_exact_match_equals_the_binomial_one(correct: int, n: int, level: float) -> None:
    lo, hi = bootstrap_interval([1.0] * correct + [0.0] * (n - correct), resamples=20_000, level=level)
    assert lo * n == pytest.approx(binomial_quantile(n, correct / n, (1 - level) / 2), abs=1)
    assert hi * n == pytest.approx(binomial_quantile(n, correct / n, (1 + level) / 2), abs=1)


def test_interval_of_continuous_scores_equals_the_slow_one() -> None:
    draw = random.Random(1)
    values = [draw.random() for _ in range(80)]
    assert bootstrap_interval(values) == pytest.approx(slow_interval(values), abs=0.008)


def test_interval_is_deterministic_and_depends_on_the_seed() -> None:
    values = list(np.linspace(0, 1, 50))
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) != bootstrap_interval(values, seed=5)
    one, again, other = (paired_difference(values, values[::-1], seed=seed) for seed in (4, 4, 5))
    assert one == again != other


@pytest.mark.parametrize(
    ("values", "interval"), [pytest.param([1.0] * 9, (1, 1), id="constant"), pytest.param([0.3], (0.3, 0.3), id="one")]
)
def test_interval_without_spread(values: list[float], interval: tuple[float, float]) -> None:
    assert bootstrap_interval(values) == pytest.approx(interval)


def test_groups_give_the_macro_average() -> None:
    values, groups = [1.0] * 90 + [0.0] * 10, ["big"] * 90 + ["small"] * 10
    assert macro_mean(values) == pytest.approx(0.9)
    assert macro_mean(values, groups) == pytest.approx(0.5)
    assert bootstrap_interval(values, groups=groups) == pytest.approx((0.5, 0.5))
    difference = paired_difference(values, [0.0] * 100, groups=groups)
    assert (difference.mean, difference.lo, difference.hi) == pytest.approx((0.5, 0.5, 0.5))


def test_groups_interval_equals_a_slow_stratified_loop() -> None:
    draw = random.Random(2)
    first, second = [1.0] * 30 + [0.0] * 30, [1.0] * 3 + [0.0] * 17
    means = sorted(
        (sum(draw.choices(first, k=60)) / 60 + sum(draw.choices(second, k=20)) / 20) / 2 for _ in range(4000)
    )
    got = bootstrap_interval(first + second, resamples=4000, groups=["a"] * 60 + ["b"] * 20)
    assert got == pytest.approx((means[100], means[3900]), abs=0.015)


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    b = [0.0, 1.0] * 200
    a = list(b)
    a[0:40:2] = [1.0] * 20
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(0.05)
    assert difference.lo > 0.02
    assert (difference.num_won, difference.num_lost, difference.num_questions) == (20, 0, 400)
    assert difference.p_value < 0.001
    assert bootstrap_interval(a)[0] < bootstrap_interval(b)[1]


@pytest.mark.parametrize(
    ("a", "b", "p_value"),
    [
        pytest.param([0.0, 1.0] * 9, [0.0, 1.0] * 9, 1.0, id="equal models differ by nothing"),
        pytest.param([0.0] * 30, [1.0] * 30, 2 / 2001, id="always worse is as significant as always better"),
    ],
)
def test_p_value(a: list[float], b: list[float], p_value: float) -> None:
    assert paired_difference(a, b).p_value == pytest.approx(p_value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        pytest.param(lambda: bootstrap_interval([]), "no scores", id="empty"),
        pytest.param(lambda: bootstrap_interval([1.0, math.nan]), "not finite", id="nan"),
        pytest.param(lambda: paired_difference([1.0], [1.0, 0.0]), "1 scores are paired with 2", id="lengths"),
        pytest.param(lambda: macro_mean([1.0], ["a", "b"]), "2 group names", id="groups"),
    ],
)
def test_bad_scores_are_user_errors(call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


def test_all_questions_of_the_paper_take_well_under_a_second() -> None:
    scores = np.random.default_rng(0).integers(0, 2, 51_713)
    started_s = time.process_time()
    bootstrap_interval(scores)
    assert time.process_time() - started_s < 0.5
