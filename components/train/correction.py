"""What the engine that sampled and the trainer that learns disagree about: measured, weighed, and stopped at a limit.

Two programs give the same tokens slightly different probabilities. Left alone, the difference acts like data of
another policy (truncated importance sampling, Ionides 2008; the behaviour and the proximal policy kept apart,
arXiv 2110.00641).
Legend: M tokens, E episodes.
"""

import math
from dataclasses import dataclass

import torch

from components.train.config import CorrectionConfig
from components.train.ranks import max_over_ranks, sum_over_ranks


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the trained tokens of a step came about, all [M]."""

    logprobs_M: torch.Tensor
    """The engine's, at sampling."""
    turn_M: torch.Tensor
    """Turn of its episode in which a token was sampled, from 1; 0 where nobody sampled it."""
    episode_M: torch.Tensor
    """Index of its episode."""

    @property
    def turn_id_M(self) -> torch.Tensor:
        """A number for every turn of every episode; text nobody sampled shares one per episode."""
        return self.episode_M * (len(self.turn_M) + 1) + self.turn_M


@dataclass(frozen=True, slots=True)
class ImportanceWeights:
    """What each token counts, and which episodes of these tokens leave the loss."""

    weights_M: torch.Tensor
    """min(ratio, cap); 0 in an episode that leaves the loss."""
    masked_E: torch.Tensor
    """The geometric mean of the episode's ratios lies outside its interval."""
    vetoed_E: torch.Tensor
    """One ratio of the episode is below the veto."""


def importance_weights(
    log_ratio_M: torch.Tensor, sampled_M: torch.Tensor, episode_M: torch.Tensor, config: CorrectionConfig
) -> ImportanceWeights:
    """Return the weights of whole episodes from log(trainer / engine) of their tokens.

    The interval holds for the mean of an episode's log ratios, not for their sum: a long episode in which every
    token is off by a little is kept. A token nobody sampled has ratio 1 and no part in the mean.
    """
    _, episode_M = torch.unique(episode_M, return_inverse=True)
    log_ratio_M = torch.where(sampled_M, log_ratio_M.double(), 0.0)
    ratio_M = log_ratio_M.exp()
    zeros_E = torch.zeros(int(episode_M.max()) + 1 if len(episode_M) else 0, dtype=torch.float64, device=ratio_M.device)
    count_E = zeros_E.index_add(0, episode_M, sampled_M.double()).clamp(min=1)
    mean_E = (zeros_E.index_add(0, episode_M, log_ratio_M) / count_E).exp()
    # Written so that a mean that is not a number is outside.
    masked_E = ~((mean_E >= config.sequence_low) & (mean_E <= config.sequence_high))
    vetoed_E = zeros_E.index_add(0, episode_M, (ratio_M < config.veto_ratio).double()) > 0
    kept_M = ~(masked_E | vetoed_E)[episode_M]
    weights_M = torch.where(kept_M, ratio_M.clamp(max=config.token_cap), 0.0).float()
    return ImportanceWeights(weights_M, masked_E, vetoed_E)


class EngineGap:
    """Weighs the tokens of one step against the trainer's log-probabilities, and sums up how far apart they are."""

    def __init__(self, behaviour: Behaviour, config: CorrectionConfig) -> None:
        self._behaviour, self._config = behaviour, config
        # All ranks know the behaviour of the whole step, and so agree on what there is to sum up.
        self._num_turns = max(behaviour.turn_M.tolist(), default=0)
        self._sums = dict.fromkeys(("capped", "masked", "vetoed", "episodes"), 0.0)
        for number in range(1, self._num_turns + 1):
            self._sums[f"k3 {number}"] = self._sums[f"tokens {number}"] = 0.0
        self._ratio_max = 0.0

    def weigh(self, index_M: torch.Tensor, logprobs_M: torch.Tensor) -> torch.Tensor:
        """Return the weights [M] of tokens `index_M` (whole episodes) and add them to the sums.

        Args:
            index_M: Which tokens of the step.
            logprobs_M: The trainer's before its first update of the step, without gradient, on any device.
        """
        device = logprobs_M.device
        turn_M, episode_M = (x[index_M].to(device) for x in (self._behaviour.turn_M, self._behaviour.episode_M))
        log_ratio_M = (logprobs_M - self._behaviour.logprobs_M[index_M].to(device)).double()
        weights = importance_weights(log_ratio_M, turn_M > 0, episode_M, self._config)
        self._add_tokens(log_ratio_M[turn_M > 0], turn_M[turn_M > 0])
        self._sums["masked"] += weights.masked_E.sum().item()
        self._sums["vetoed"] += weights.vetoed_E.sum().item()
        self._sums["episodes"] += len(weights.masked_E)
        return weights.weights_M

    def metrics(self) -> dict[str, float]:
        """Return the means over what was weighed, on all ranks together; every rank must call it.

        The divergence is KL(engine || trainer), estimated without bias and never negative as ratio - 1 - log ratio
        (k3, Schulman 2020, "Approximating KL divergence"). The largest ratio is the raw one, before any cap.
        """
        sums, peak = sum_over_ranks(self._sums), max_over_ranks({"ratio": self._ratio_max})
        numbers = range(1, self._num_turns + 1)
        by_turn = {
            f"kl/rollout_vs_trainer/turn_{number}": sums[f"k3 {number}"] / sums[f"tokens {number}"]
            for number in numbers
            if sums[f"tokens {number}"]
        }
        tokens = max(1.0, sum(sums[f"tokens {number}"] for number in numbers))
        episodes = max(1.0, sums["episodes"])
        return by_turn | {
            "kl/rollout_vs_trainer": sum(sums[f"k3 {number}"] for number in numbers) / tokens,
            "ratio/rollout_vs_trainer/max": peak["ratio"],
            "correction/capped_frac": sums["capped"] / tokens,
            "correction/masked_episodes_frac": sums["masked"] / episodes,
            "correction/vetoed_episodes_frac": sums["vetoed"] / episodes,
        }

    def _add_tokens(self, log_ratio_M: torch.Tensor, turn_M: torch.Tensor) -> None:
        k3_M = torch.expm1(log_ratio_M) - log_ratio_M
        zeros = torch.zeros(self._num_turns + 1, dtype=torch.float64, device=k3_M.device)
        k3, tokens = (zeros.index_add(0, turn_M, x).tolist() for x in (k3_M, torch.ones_like(k3_M)))
        for number in range(1, self._num_turns + 1):
            self._sums[f"k3 {number}"] += k3[number]
            self._sums[f"tokens {number}"] += tokens[number]
        self._sums["capped"] += (log_ratio_M > math.log(self._config.token_cap)).sum().item()
        if len(log_ratio_M):
            self._ratio_max = max(self._ratio_max, log_ratio_M.max().exp().item())
