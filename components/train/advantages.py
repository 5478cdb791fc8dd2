"""Advantages on compressed sequences: masked tokens are skipped, not walked through.

Legend: N episodes, A trained tokens of the longest episode. Arrays are right-padded; `mask_NA` marks real tokens.
Every function treats the trained tokens of an episode as neighbours, however much retrieved text lies between.
"""

import numpy as np

SMALLEST_SPREAD = 1e-4
SMALLEST_SPREAD_FRAC = 0.1
"""A kind whose advantages spread less, absolutely or as a share of the spread of all kinds, is not blown up to variance
1. Where no episode of a kind is right, all that is left is rounding in the KL penalty: at full size it would push the
policy in random directions."""


def token_rewards(outcomes: np.ndarray, kl_NA: np.ndarray, mask_NA: np.ndarray, kl_coefficient: float) -> np.ndarray:
    """Return rewards per trained token [N, A]: -coefficient * k1 everywhere, plus the outcome on the last token.

    An episode without trained tokens gets none.
    """
    rewards_NA = -kl_coefficient * kl_NA * mask_NA
    lengths = mask_NA.sum(1).astype(int)
    present = np.flatnonzero(lengths)
    rewards_NA[present, lengths[present] - 1] += outcomes[present]
    return rewards_NA


def gae(
    rewards_NA: np.ndarray, values_NA: np.ndarray, mask_NA: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (advantages, returns), both [N, A] and 0 on padding (generalised advantage estimation, 1506.02438)."""
    advantages_NA = np.zeros_like(rewards_NA)
    running_N = np.zeros(len(rewards_NA))
    next_value_N = np.zeros(len(rewards_NA))
    for column in range(rewards_NA.shape[1] - 1, -1, -1):
        real_N = mask_NA[:, column]
        delta_N = rewards_NA[:, column] + gamma * next_value_N - values_NA[:, column]
        running_N = np.where(real_N, delta_N + gamma * lam * running_N, running_N)
        next_value_N = np.where(real_N, values_NA[:, column], next_value_N)
        advantages_NA[:, column] = running_N * real_N
    return advantages_NA, (advantages_NA + values_NA) * mask_NA


def whiten(advantages_NA: np.ndarray, mask_NA: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return advantages with mean 0 and variance 1 over the trained tokens of each kind [N]; 0 on padding.

    A kind with fewer than two tokens is centred only; one whose advantages hardly differ gets less than variance 1.
    """
    whitened_NA = np.zeros_like(advantages_NA)
    everywhere = advantages_NA[mask_NA]
    smallest = max(SMALLEST_SPREAD, SMALLEST_SPREAD_FRAC * everywhere.std()) if everywhere.size else SMALLEST_SPREAD
    for kind in np.unique(kinds):
        chosen_NA = mask_NA & (kinds == kind)[:, None]
        values = advantages_NA[chosen_NA]
        if not values.size:
            continue
        scale = values.std(ddof=1) if values.size > 1 else 1.0
        whitened_NA[chosen_NA] = (values - values.mean()) / max(scale + 1e-8, smallest)
    return whitened_NA


def group_relative(outcomes: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (advantage per episode, keep) for GRPO: (r - mean) / sample standard deviation within its group.

    `keep` is False for groups whose rewards are all equal: they carry no signal (arXiv 2402.03300, 2503.14476).
    """
    advantages, keep = np.zeros(len(outcomes)), np.zeros(len(outcomes), dtype=bool)
    for group in np.unique(groups):
        members = groups == group
        values = outcomes[members]
        if _differ(values):
            advantages[members] = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
            keep[members] = True
    return advantages, keep


def leave_one_out(outcomes: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (advantage per episode, keep) for REINFORCE: reward minus the mean of the others (arXiv 2402.14740)."""
    advantages, keep = np.zeros(len(outcomes)), np.zeros(len(outcomes), dtype=bool)
    for group in np.unique(groups):
        members = groups == group
        values = outcomes[members]
        if _differ(values):
            advantages[members] = values - (values.sum() - values) / (values.size - 1)
            keep[members] = True
    return advantages, keep


def _differ(outcomes: np.ndarray) -> bool:
    # Not by their spread: equal rewards such as .1 have one of 1e-17 around a mean that was rounded.
    return bool(outcomes.max() > outcomes.min())
