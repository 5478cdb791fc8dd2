"""Losses over trained tokens, as sums: the caller divides by the global token count.

Legend: M trained tokens (of any number of episodes, in any order).
"""

from dataclasses import dataclass

import torch

from components.train.config import LossConfig


@dataclass(slots=True)
class PolicyLoss:
    """Sum of the loss over M tokens and sums of what happened, for metrics."""

    loss: torch.Tensor
    clipped_low: float
    clipped_high: float
    ratio: float
    ratio_max: float
    approximate_kl: float
    entropy: float


def policy_loss(
    logprobs_M: torch.Tensor,
    old_logprobs_M: torch.Tensor,
    advantages_M: torch.Tensor,
    entropy_M: torch.Tensor,
    config: LossConfig,
    weights_M: torch.Tensor | None = None,
) -> PolicyLoss:
    """Return the clipped surrogate (1707.06347) with a second bound for negative advantages (1912.09729).

    `weights_M` (see correction.py) multiply the surrogate of each token. Sum and maximum of the ratios are taken before
    any clipping.
    """
    log_ratio_M = logprobs_M - old_logprobs_M
    ratio_M = log_ratio_M.exp()
    clipped_M = ratio_M.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate_M = torch.minimum(ratio_M * advantages_M, clipped_M * advantages_M)
    bounded_M = torch.maximum(surrogate_M, config.dual_clip * advantages_M)
    objective_M = torch.where(advantages_M < 0, bounded_M, surrogate_M)
    if weights_M is not None:
        objective_M = objective_M * weights_M
    loss = -(objective_M + config.entropy_coefficient * entropy_M).sum()
    with torch.no_grad():
        low = ((ratio_M < 1 - config.clip_low) & (advantages_M < 0)).sum().item()
        high = ((ratio_M > 1 + config.clip_high) & (advantages_M > 0)).sum().item()
        k3 = (ratio_M - 1 - log_ratio_M).sum().item()
        peak = ratio_M.max().item() if ratio_M.numel() else 0.0
        return PolicyLoss(loss, low, high, ratio_M.sum().item(), peak, k3, entropy_M.sum().item())


def kl_loss(logprobs_M: torch.Tensor, reference_logprobs_M: torch.Tensor) -> torch.Tensor:
    """Return the sum of k2 = (logp - logp_ref)^2 / 2, whose gradient is that of the KL to the reference."""
    return 0.5 * (logprobs_M - reference_logprobs_M).square().sum()


def value_loss(
    values_M: torch.Tensor, old_values_M: torch.Tensor, returns_M: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return the sum of half the larger of the clipped and unclipped squared errors."""
    clipped_M = old_values_M + (values_M - old_values_M).clamp(-clip, clip)
    errors_M = torch.maximum((values_M - returns_M).square(), (clipped_M - returns_M).square())
    return 0.5 * errors_M.sum()


def likelihood_guard(
    logprobs_M: torch.Tensor, old_logprobs_M: torch.Tensor, advantages_M: torch.Tensor, turn_M: torch.Tensor
) -> torch.Tensor:
    """Return the sum of the likelihood that good tokens lost, over turns that lost some as a whole.

    LLDS (arXiv 2512.04220): max(0, old - new) on tokens whose advantage is not negative, in actions whose summed
    log-probability fell. `turn_M` numbers the turns of all episodes, each number used once; whole turns only.
    """
    lost_M = old_logprobs_M - logprobs_M
    _, turn_M = torch.unique(turn_M, return_inverse=True)
    lost_by_turn = torch.zeros_like(lost_M).detach().index_add(0, turn_M, lost_M.detach())
    guarded_M = (advantages_M >= 0) & (lost_by_turn > 0)[turn_M]
    return torch.where(guarded_M, torch.relu(lost_M), 0.0).sum()
