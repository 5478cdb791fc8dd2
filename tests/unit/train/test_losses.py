"""Losses against a loop over tokens, and the direction in which they push."""

import math
import random

import pytest
import torch

from components.train.config import LossConfig
from components.train.losses import kl_loss, likelihood_guard, policy_loss, value_loss


def slow_policy_loss(new, old, advantages, entropies, config):
    """(loss, clipped low, clipped high, sum of ratios, largest ratio, k3), one token after the other."""
    total, low, high, ratios, largest, k3 = 0.0, 0, 0, 0.0, 0.0, 0.0
    for logprob, old_logprob, advantage, entropy in zip(new, old, advantages, entropies, strict=True):
        ratio = math.exp(logprob - old_logprob)
        clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
        objective = min(ratio * advantage, clipped * advantage)
        if advantage < 0:
            objective = max(objective, config.dual_clip * advantage)
        total -= objective + config.entropy_coefficient * entropy
        low += ratio < 1 - config.clip_low and advantage < 0
        high += ratio > 1 + config.clip_high and advantage > 0
        ratios, largest = ratios + ratio, max(largest, ratio)
        k3 += ratio - 1 - (logprob - old_logprob)
    return total, low, high, ratios, largest, k3


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"clip_low": 0.1, "clip_high": 0.5}, id="clip-higher"),
        pytest.param({"dual_clip": 1.5}, id="dual-clip"),
        pytest.param({"entropy_coefficient": 0.01}, id="entropy-bonus"),
    ],
)
def test_policy_loss_equals_a_loop_over_tokens(settings):
    config, rng = LossConfig(**settings), random.Random(0)
    columns = [[rng.gauss(-1, 1) for _ in range(200)], [rng.gauss(-1, 1) for _ in range(200)]]
    columns += [[rng.gauss(0, 1) for _ in range(200)], [rng.random() for _ in range(200)]]
    found = policy_loss(*(torch.tensor(column) for column in columns), config)
    loss, low, high, ratios, largest, k3 = slow_policy_loss(*columns, config)
    assert found.loss.item() == pytest.approx(loss, abs=1e-3)
    assert (found.clipped_low, found.clipped_high) == (low, high)
    assert min(low, high) > 10
    assert found.ratio == pytest.approx(ratios, rel=1e-5)
    assert found.ratio_max == pytest.approx(largest, rel=1e-5)
    assert found.approximate_kl == pytest.approx(k3, rel=1e-4)
    assert found.entropy == pytest.approx(sum(columns[3]), rel=1e-5)


CONFIG = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        pytest.param(1.0, 2.0, -2.0, -2.0, id="on-policy"),
        pytest.param(1.2, 1.0, -1.2, -1.2, id="inside-the-upper-clip"),
        pytest.param(1.5, 1.0, -1.28, 0.0, id="above-the-upper-clip"),
        pytest.param(0.5, 1.0, -0.5, -0.5, id="low-ratio-of-a-good-token-is-free-to-rise"),
        pytest.param(0.5, -1.0, 0.8, 0.0, id="below-the-lower-clip"),
        pytest.param(1.5, -1.0, 1.5, 1.5, id="high-ratio-of-a-bad-token-is-free-to-fall"),
        pytest.param(7.0, -1.0, 3.0, 0.0, id="dual-clip"),
    ],
)
def test_policy_loss_of_one_token(ratio, advantage, loss, gradient):
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    zero = torch.zeros(1)
    found = policy_loss(logprob, zero, torch.tensor([advantage]), zero, CONFIG)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(loss, rel=1e-5)
    assert logprob.grad.item() == pytest.approx(gradient, rel=1e-5)


def test_largest_ratio_is_the_raw_one():
    old, advantages = torch.tensor([-9.0, -1.0]), torch.tensor([1.0, -1.0])
    assert policy_loss(torch.tensor([-1.0, -1.0]), old, advantages, torch.zeros(2), CONFIG).ratio_max == pytest.approx(
        math.exp(8), rel=1e-5
    )


def test_entropy_bonus_pushes_entropy_up():
    logits = torch.tensor([2.0, 0.0, 0.0], requires_grad=True)
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum()[None]
    zero = torch.zeros(1)
    policy_loss(zero, zero, zero, entropy, LossConfig(entropy_coefficient=0.1)).loss.backward()
    assert logits.grad[0] > 0 > logits.grad[1]


def test_no_tokens_no_loss():
    empty = torch.zeros(0)
    found = policy_loss(empty, empty, empty, empty, CONFIG)
    assert (found.loss.item(), found.ratio_max, found.approximate_kl) == (0.0, 0.0, 0.0)
    assert kl_loss(empty, empty).item() == value_loss(empty, empty, empty, 0.5).item() == 0.0


@pytest.mark.parametrize("distance", [-20.0, -5.0, -0.1, 0.1, 5.0])
def test_kl_gradient_points_to_the_reference_however_far_it_is(distance):
    logprob = torch.tensor([-1.0 + distance], requires_grad=True)
    kl_loss(logprob, torch.tensor([-1.0])).backward()
    assert logprob.grad.item() == pytest.approx(distance, rel=1e-4)


def test_kl_loss_gradient_is_that_of_the_kl_divergence():
    """Over all tokens, weighted by their probability, the gradient of k2 is the gradient of the exact KL."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    logprobs = logits.log_softmax(-1)
    exact = torch.autograd.grad((logprobs.exp() * (logprobs - reference)).sum(), logits, retain_graph=True)[0]
    weights = logprobs.detach().exp()
    sampled = sum(
        weight * torch.autograd.grad(kl_loss(logprobs[i : i + 1], reference[i : i + 1]), logits, retain_graph=True)[0]
        for i, weight in enumerate(weights)
    )
    assert torch.allclose(sampled, exact)


def test_value_loss_equals_a_loop_over_tokens():
    rng = random.Random(1)
    values, old, returns = ([rng.gauss(0, 1) for _ in range(100)] for _ in range(3))
    expected = 0.0
    for value, before, target in zip(values, old, returns, strict=True):
        clipped = min(max(value, before - 0.5), before + 0.5)
        expected += 0.5 * max((value - target) ** 2, (clipped - target) ** 2)
    found = value_loss(*(torch.tensor(column) for column in (values, old, returns)), 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_importance_weights_multiply_the_surrogate_and_leave_the_entropy_bonus():
    rng = random.Random(2)
    new, old, advantages = ([rng.gauss(-1, 0.3) for _ in range(50)] for _ in range(3))
    entropies, weights = ([rng.random() for _ in range(50)] for _ in range(2))
    config = LossConfig(entropy_coefficient=0.1)
    columns = [torch.tensor(column) for column in (new, old, advantages, entropies)]
    expected = 0.0
    for *token, weight in zip(new, old, advantages, entropies, weights, strict=True):
        without_bonus, *_ = slow_policy_loss(*([x] for x in token), LossConfig())
        expected += weight * without_bonus - 0.1 * token[3]
    assert policy_loss(*columns, config, torch.tensor(weights)).loss.item() == pytest.approx(expected, rel=1e-4)
    unweighted, ones = (policy_loss(*columns, config, w).loss.item() for w in (None, torch.ones(50)))
    assert unweighted == ones


def slow_likelihood_guard(new, old, advantages, turns):
    """The loss and its gradient for each token, turn by turn."""
    loss, gradient = 0.0, [0.0] * len(new)
    for turn in set(turns):
        tokens = [i for i, of in enumerate(turns) if of == turn]
        if sum(new[i] for i in tokens) >= sum(old[i] for i in tokens):
            continue
        for i in tokens:
            if advantages[i] >= 0 and old[i] > new[i]:
                loss, gradient[i] = loss + old[i] - new[i], -1.0
    return loss, gradient


def test_likelihood_guard_equals_a_loop_over_turns():
    rng = random.Random(3)
    new, old, advantages = ([rng.gauss(-1, 1) for _ in range(120)] for _ in range(3))
    turns = [rng.randrange(30) * 7 for _ in range(120)]
    logprobs = torch.tensor(new, requires_grad=True)
    found = likelihood_guard(logprobs, *(torch.tensor(x) for x in (old, advantages, turns)))
    found.backward()
    loss, gradient = slow_likelihood_guard(new, old, advantages, turns)
    assert found.item() == pytest.approx(loss, rel=1e-5)
    assert logprobs.grad.tolist() == gradient
    assert 5 < -sum(gradient) < 60


@pytest.mark.parametrize(
    ("new", "old", "advantage", "loss"),
    [
        pytest.param([-2.0, -1.0], [-1.0, -1.0], 1.0, 1.0, id="good-turn-fell"),
        pytest.param([-2.0, -1.0], [-1.0, -1.0], 0.0, 1.0, id="neutral-turn-fell"),
        pytest.param([-2.0, -1.0], [-1.0, -1.0], -1.0, 0.0, id="bad-turn-may-fall"),
        pytest.param([-2.0, -0.5], [-1.0, -2.0], 1.0, 0.0, id="one-token-fell-but-the-turn-rose"),
        pytest.param([-2.0, -0.5], [-1.0, -1.0], 1.0, 1.0, id="the-turn-fell-though-one-token-rose"),
        pytest.param([-1.0, -1.0], [-1.0, -1.0], 1.0, 0.0, id="unchanged"),
    ],
)
def test_likelihood_guard_of_one_turn(new, old, advantage, loss):
    new, old = torch.tensor(new, requires_grad=True), torch.tensor(old)
    found = likelihood_guard(new, old, torch.full((2,), advantage), torch.zeros(2).long())
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert bool(new.grad.any()) == bool(loss)
