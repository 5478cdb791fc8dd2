"""Draws tokens with one counter-based uniform number per (seed, position): no state, no order, no batch effect."""

from collections.abc import Sequence

import numpy as np
import torch


def sample_tokens(
    logits_NV: torch.Tensor, *, temperatures: Sequence[float], seeds: Sequence[int], draws: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Return one token per row and its log-probability under the distribution it was drawn from.

    Temperature 0 takes the most likely token and reports its log-probability at temperature 1. The
    uniform number of a row depends on its seed and draw counter alone (inverse-transform sampling).
    """
    temperature_N = torch.tensor(temperatures, dtype=torch.float32, device=logits_NV.device)
    greedy_N = temperature_N == 0
    scaled_NV = logits_NV.float() / torch.where(greedy_N, 1.0, temperature_N)[:, None]
    logprobs_NV = scaled_NV.log_softmax(-1)
    if bool(greedy_N.all()):
        chosen_N = scaled_NV.argmax(-1)
    else:
        cumulative_NV = logprobs_NV.double().exp_().cumsum_(-1)
        uniform_N = torch.from_numpy(uniforms(seeds, draws)).to(logits_NV.device) * cumulative_NV[:, -1]
        chosen_N = torch.searchsorted(cumulative_NV, uniform_N[:, None], right=True)[:, 0]
        chosen_N = torch.where(greedy_N, scaled_NV.argmax(-1), chosen_N.clamp_(max=logits_NV.shape[-1] - 1))
    return chosen_N.tolist(), logprobs_NV.gather(-1, chosen_N[:, None])[:, 0].tolist()


def uniforms(seeds: Sequence[int], draws: Sequence[int]) -> np.ndarray:
    """Return float64 numbers in [0, 1), one per (seed, draw) pair, by two rounds of the SplitMix64 finaliser."""
    mask = (1 << 64) - 1
    state = np.array([seed & mask for seed in seeds], dtype=np.uint64)
    counter = np.array([draw & mask for draw in draws], dtype=np.uint64)
    mixed = _finalise(_finalise(state) + counter * np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def mixed_seed(seed: int, draw: int) -> int:
    """Return a non-negative 63-bit seed for (seed, draw), for samplers that bring a generator of their own."""
    mask = (1 << 64) - 1
    with np.errstate(over="ignore"):
        state = _finalise(np.uint64(seed & mask)) + np.uint64(draw & mask) * np.uint64(0x9E3779B97F4A7C15)
        return int(_finalise(state) >> np.uint64(1))


def _finalise(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
