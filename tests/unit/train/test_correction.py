"""Importance weights and the mismatch against a loop over tokens, and the traps they exist for."""

import math
import random

import numpy as np
import pytest
import torch

from components.train.config import CorrectionConfig
from components.train.correction import Behaviour, EngineGap, importance_weights


def slow_weights(log_ratios, sampled, episodes, config):
    """(weights, masked episodes, vetoed episodes), one episode and one token after the other."""
    weights, masked, vetoed = [0.0] * len(log_ratios), set(), set()
    for episode in set(episodes):
        tokens = [i for i, of in enumerate(episodes) if of == episode]
        own = [log_ratios[i] for i in tokens if sampled[i]]
        geometric_mean = math.exp(sum(own) / len(own)) if own else 1.0
        if not config.sequence_low <= geometric_mean <= config.sequence_high:
            masked.add(episode)
        if any(math.exp(ratio) < config.veto_ratio for ratio in own):
            vetoed.add(episode)
        for i in tokens:
            if episode not in masked | vetoed:
                weights[i] = min(math.exp(log_ratios[i]), config.token_cap) if sampled[i] else 1.0
    return weights, masked, vetoed


def invented(count: int, spread: float, seed: int = 0):
    """Log ratios, marks of sampled tokens and episode numbers of `count` tokens in scattered order."""
    rng = random.Random(seed)
    log_ratios = [rng.gauss(0, spread) for _ in range(count)]
    return log_ratios, [rng.random() < 0.8 for _ in range(count)], [rng.randrange(count // 10) for _ in range(count)]


@pytest.mark.parametrize(
    ("spread", "settings"),
    [
        pytest.param(0.03, {}, id="defaults"),
        pytest.param(1.0, {"sequence_low": 0.7, "sequence_high": 1.4}, id="wide-interval-and-capped-tokens"),
        pytest.param(2.0, {"sequence_low": 0.3, "sequence_high": 4.0, "veto_ratio": 0.02}, id="vetoes"),
        pytest.param(1.0, {"sequence_low": 0.5, "sequence_high": 2.0, "token_cap": 1.0}, id="cap-of-one"),
    ],
)
def test_weights_equal_a_loop_over_tokens(spread, settings):
    config, columns = CorrectionConfig(**settings), invented(400, spread)
    found = importance_weights(*map(torch.tensor, columns), config)
    weights, masked, vetoed = slow_weights(*columns, config)
    assert found.weights_M.tolist() == pytest.approx(weights, rel=1e-5)
    assert 0 < len(masked) < 40
    assert set(found.masked_E.nonzero()[:, 0].tolist()) == masked
    assert set(found.vetoed_E.nonzero()[:, 0].tolist()) == vetoed
    assert bool(vetoed) == ("veto_ratio" in settings)


def weights_of_one(log_ratios, **settings) -> list[float]:
    count = len(log_ratios)
    everything = torch.tensor(log_ratios), torch.ones(count).bool(), torch.zeros(count).long()
    return importance_weights(*everything, CorrectionConfig(**settings)).weights_M.tolist()


@pytest.mark.parametrize(
    ("log_ratios", "kept"),
    [
        pytest.param([0.005] * 2000, True, id="long-and-every-token-a-little-off"),
        pytest.param([0.005] * 20, True, id="short-and-every-token-a-little-off"),
        pytest.param([0.02] * 2000, False, id="every-token-off-by-more"),
        pytest.param([0.3, -0.3] * 1000, True, id="large-but-balanced"),
        pytest.param([-9.3] + [0.0] * 1999, False, id="one-impossible-token-in-a-long-episode"),
        pytest.param([-9.1] + [0.0] * 1999, True, id="one-rare-token-in-a-long-episode"),
        pytest.param([math.inf, 0.0], False, id="infinite"),
        pytest.param([math.nan, 0.0], False, id="not-a-number"),
    ],
)
def test_which_episodes_leave_the_loss(log_ratios, kept):
    """The product of the ratios of the first case is e^10: a rule on the product drops the longest episodes first."""
    weights = weights_of_one(log_ratios)
    # A weight that is not a number is not 0 either: it would ruin the whole update.
    assert all(weight > 0 for weight in weights) if kept else not any(weights)


def test_cap_is_a_ceiling_without_a_floor():
    wide = {"sequence_low": 0.01, "sequence_high": 100.0}
    weights = weights_of_one([math.log(5.0), math.log(1.5), math.log(0.1)], **wide)
    assert weights == pytest.approx([2.0, 1.5, 0.1])


def test_no_tokens_no_weights():
    found = importance_weights(torch.zeros(0), torch.zeros(0).bool(), torch.zeros(0).long(), CorrectionConfig())
    assert len(found.weights_M) == len(found.masked_E) == 0


@pytest.mark.parametrize("mask", [True, False])
def test_behaviour_numbers_the_turns_and_episodes_of_trained_tokens(mask, make_experience):
    experience = make_experience(6, mask=mask)
    behaviour = experience.behaviour
    expected = []
    for number, (episode, sequence) in enumerate(zip(experience.episodes, experience.sequences, strict=True)):
        for position in sequence.trained_positions:
            of = [n for n, turn in enumerate(episode.turns, 1) if turn.start <= position < turn.end]
            expected.append((episode.logprobs[position], of[0] if of else 0, number))
    logprobs, turns, episodes = zip(*expected, strict=True)
    assert behaviour.logprobs_M.tolist() == pytest.approx(logprobs)
    assert (behaviour.turn_M.tolist(), behaviour.episode_M.tolist()) == (list(turns), list(episodes))
    assert (0 in turns) == (not mask)
    numbers = zip(turns, episodes, behaviour.turn_id_M.tolist(), strict=True)
    ids = {(turn, episode): number for turn, episode, number in numbers}
    assert len(set(ids.values())) == len(ids) > 6


def slow_mismatch(behaviour, trainer, config):
    """Metrics of `EngineGap` by loops; the largest ratio is the raw one."""
    log_ratios = (trainer - behaviour.logprobs_M).double().tolist()
    turns, episodes = behaviour.turn_M.tolist(), behaviour.episode_M.tolist()
    own = [(math.exp(d) - 1 - d, d, turn) for d, turn in zip(log_ratios, turns, strict=True) if turn]
    _, masked, vetoed = slow_weights(log_ratios, [turn > 0 for turn in turns], episodes, config)
    metrics = {
        "kl/rollout_vs_trainer": np.mean([k3 for k3, _, _ in own]),
        "ratio/rollout_vs_trainer/max": math.exp(max(d for _, d, _ in own)),
        "correction/capped_frac": np.mean([math.exp(d) > config.token_cap for _, d, _ in own]),
        "correction/masked_episodes_frac": len(masked) / len(set(episodes)),
        "correction/vetoed_episodes_frac": len(vetoed) / len(set(episodes)),
    }
    for number in {turn for _, _, turn in own}:
        metrics[f"kl/rollout_vs_trainer/turn_{number}"] = np.mean([k3 for k3, _, turn in own if turn == number])
    return metrics


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_mismatch_equals_a_loop_over_tokens_however_it_is_split(mask, parts, make_experience):
    experience, config = make_experience(9, mask=mask), CorrectionConfig(sequence_low=0.5, sequence_high=2.0)
    behaviour = experience.behaviour
    noise = torch.randn(experience.num_tokens, generator=torch.Generator().manual_seed(1))
    trainer = torch.where(behaviour.turn_M > 0, behaviour.logprobs_M + noise, -3.0)
    impossible = behaviour.turn_M.nonzero()[5]
    trainer[impossible] = behaviour.logprobs_M[impossible] - 12
    gap = EngineGap(behaviour, config)
    weights = torch.zeros(experience.num_tokens)
    for part in range(parts):
        index = (behaviour.episode_M % parts == part).nonzero()[:, 0]
        weights[index] = gap.weigh(index, trainer[index])
    expected = slow_mismatch(behaviour, trainer, config)
    assert gap.metrics() == pytest.approx(expected, rel=1e-5)
    assert len(expected) == 8
    assert all(expected.values())
    sampled = (behaviour.turn_M > 0).tolist()
    log_ratios = (trainer - behaviour.logprobs_M).tolist()
    slow, _, _ = slow_weights(log_ratios, sampled, behaviour.episode_M.tolist(), config)
    assert weights.tolist() == pytest.approx(slow, rel=1e-4)


def test_measured_divergence_is_that_of_the_engine_from_the_trainer():
    """Every token as often as the engine would sample it: the mean is KL(engine || trainer) exactly."""
    generator = torch.Generator().manual_seed(0)
    engine, trainer = torch.randn(2, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    counts = (engine.exp() * 1_000_000).round().long()
    token_M = torch.repeat_interleave(torch.arange(6), counts)
    once = torch.ones(len(token_M), dtype=torch.long)
    gap = EngineGap(Behaviour(engine[token_M], once, once), CorrectionConfig())
    gap.weigh(torch.arange(len(token_M)), trainer[token_M])
    exact = (engine.exp() * (engine - trainer)).sum().item()
    assert exact > 0.1
    assert gap.metrics()["kl/rollout_vs_trainer"] == pytest.approx(exact, rel=1e-4)


def test_tiny_differences_are_not_lost_in_rounding():
    engine = torch.full((1000,), -1.0, dtype=torch.float64)
    gap = EngineGap(Behaviour(engine, torch.ones(1000).long(), torch.zeros(1000).long()), CorrectionConfig())
    gap.weigh(torch.arange(1000), engine + 1e-5)
    assert gap.metrics()["kl/rollout_vs_trainer"] == pytest.approx(0.5e-10, rel=1e-4)
