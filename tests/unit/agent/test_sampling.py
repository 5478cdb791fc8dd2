"""Sampling by inverse transform: right frequencies, right log-probabilities, no state."""

import math

import numpy as np
import pytest
import torch

from components.agent.engines.sampling import mixed_seed, sample_tokens, uniforms

CRITICAL_AT_ONE_IN_A_THOUSAND = {5: 20.52, 99: 148.23}
"""Chi-square quantiles by degrees of freedom."""


def chi_square(counts, expected) -> float:
    return float(((np.asarray(counts) - expected) ** 2 / expected).sum())


def draw(logits, temperature, count=20_000, seed=3):
    return sample_tokens(
        torch.tensor([logits]).expand(count, -1), temperatures=[temperature] * count, seeds=[seed] * count,
        draws=range(count),
    )  # fmt: skip


def slow_logprobs(logits, temperature) -> list[float]:
    weights = [math.exp(x / temperature) for x in logits]
    return [math.log(weight / sum(weights)) for weight in weights]


LOGITS = [0.0, 1.0, -1.0, 2.0, 0.5, -2.0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_probabilities(temperature):
    tokens, logprobs = draw(LOGITS, temperature)
    expected = slow_logprobs(LOGITS, temperature)
    counts = np.bincount(tokens, minlength=6)
    assert chi_square(counts, np.exp(expected) * 20_000) < CRITICAL_AT_ONE_IN_A_THOUSAND[5]
    assert logprobs == pytest.approx([expected[token] for token in tokens], abs=1e-5)


def test_the_chi_square_can_fail():
    counts = np.bincount(draw(LOGITS, 1.2)[0], minlength=6)
    assert chi_square(counts, np.exp(slow_logprobs(LOGITS, 1.0)) * 20_000) > CRITICAL_AT_ONE_IN_A_THOUSAND[5]


def test_temperature_zero_takes_the_most_likely_and_reports_temperature_one():
    tokens, logprobs = draw(LOGITS, 0.0, count=3)
    assert tokens == [3, 3, 3]
    assert logprobs == pytest.approx([slow_logprobs(LOGITS, 1.0)[3]] * 3, abs=1e-6)


def test_greedy_and_sampled_rows_share_a_batch():
    rows = torch.tensor([LOGITS] * 4)
    mixed, logprobs = sample_tokens(rows, temperatures=[0.0, 1.0, 0.0, 0.7], seeds=[1, 2, 3, 4], draws=[5, 6, 7, 8])
    for row, (temperature, seed, position) in enumerate([(0.0, 1, 5), (1.0, 2, 6), (0.0, 3, 7), (0.7, 4, 8)]):
        alone = sample_tokens(rows[:1], temperatures=[temperature], seeds=[seed], draws=[position])
        assert ([mixed[row]], [logprobs[row]]) == alone


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param([-math.inf, 0.0, -math.inf], id="one-possible-token"),
        pytest.param([-1e4, 0.0, -1e4], id="certain-token"),
    ],
)
def test_impossible_tokens_are_never_drawn(logits):
    assert set(draw(logits, 1.0, count=2_000)[0]) == {1}


def test_uniforms_are_uniform_distinct_and_below_one():
    seeds = [seed for seed in (0, 1, 2, 2**63 - 1, 12345) for _ in range(4_000)]
    numbers = uniforms(seeds, [draw for _ in range(5) for draw in range(4_000)])
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    assert len(set(numbers.tolist())) == len(numbers)
    counts = np.bincount((numbers * 100).astype(int), minlength=100)
    assert chi_square(counts, len(numbers) / 100) < CRITICAL_AT_ONE_IN_A_THOUSAND[99]


def test_neighbouring_seeds_and_draws_are_unrelated():
    by_seed = uniforms(range(4_000), [7] * 4_000)
    by_draw = uniforms([7] * 4_000, range(4_000))
    for numbers in (by_seed, by_draw):
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(by_seed, by_draw)[0, 1]) < 0.05


def test_uniforms_depend_on_the_pair_alone():
    assert uniforms([5, 9], [2, 3]).tolist() == [uniforms([5], [2])[0], uniforms([9], [3])[0]]


def test_mixed_seeds_differ_for_every_seed_and_position():
    mixed = {mixed_seed(seed, draw) for seed in range(100) for draw in range(100)}
    assert len(mixed) == 100 * 100
    assert all(0 <= seed < 2**63 for seed in mixed)
    assert mixed_seed(7, 11) == mixed_seed(7, 11)
    assert mixed_seed(-1, 0) == mixed_seed(2**64 - 1, 0)
