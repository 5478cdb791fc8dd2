"""How fast a step was, and how near to what the hardware can do."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from components.contracts.episode import Episode
from components.train.cost import FAMILIES, ModelShape, forward_flops
from components.train.experience import Experience
from components.train.plan_time import GPUS
from components.train.ranks import world_size


def throughput_metrics(
    episodes: Sequence[Episode],
    experience: Experience,
    laps: Mapping[str, float],
    model_config: Mapping[str, Any],
    *,
    has_critic: bool,
    dtype: str,
    ahead_s: float = 0.0,
) -> dict[str, float]:
    """Return tokens per second of the step's parts, and the FLOPs of its update where the model's family is known.

    Every FLOP of the model counts once, whatever is computed twice to save memory (MFU, arXiv 2204.02311,
    appendix B); the share of the peak is given on GPUs whose peak is known. Episodes that were sampled beside the
    update before took `ahead_s` there, and none of this step's time.
    """
    seconds, num_ranks = sum(laps.values()), world_size()
    tokens = sum(len(episode.token_ids) for episode in episodes)
    found = {
        "perf/tokens_per_s": tokens / seconds,
        "perf/tokens_per_s_per_rank": tokens / seconds / num_ranks,
        "perf/rollout_tokens_per_s": sum(e.num_model_tokens for e in episodes) / (ahead_s or laps["time/rollout_s"]),
    }
    if model_config.get("model_type") not in FAMILIES:
        return found
    lengths = [len(sequence.token_ids) for sequence in experience.sequences]
    passes = 3 * (2 if has_critic else 1)
    flops = passes * forward_flops(ModelShape.from_hf_config(model_config), lengths, experience.num_tokens)
    rate = flops / laps["time/update_s"] / num_ranks
    found["perf/update_tflops_per_rank"] = rate / 1e12
    if torch.cuda.is_available():
        for peak in peak_flops_per_s(torch.cuda.get_device_name(), dtype):
            found["perf/mfu"] = rate / peak
    return found


def peak_flops_per_s(device_name: str, dtype: str) -> list[float]:
    """Return the peak of the GPU a driver calls `device_name`, in a list that is empty for an unknown one."""
    words = set(re.findall(r"[A-Z]+\d+[A-Z]?|\d+(?=GB)", device_name.upper()))
    return [gpu.flops_per_s(dtype) for gpu in GPUS.values() if words >= set(gpu.name.upper().split("-"))]
