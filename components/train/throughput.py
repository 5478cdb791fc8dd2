"""How fast a step was, and how near to what the hardware can do."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from components.contracts.episode import Episode
from components.train.config import TrainConfig
from components.train.cost import FAMILIES, ModelShape, decode_roof_tokens_per_s, forward_flops
from components.train.experience import Experience
from components.train.plan_memory import engine_bytes_per_number
from components.train.plan_time import GPUS, Gpu
from components.train.ranks import world_size


def throughput_metrics(
    episodes: Sequence[Episode],
    experience: Experience,
    laps: Mapping[str, float],
    model_config: Mapping[str, Any],
    *,
    has_critic: bool,
    config: TrainConfig,
    ahead_s: float = 0.0,
) -> dict[str, float]:
    """Return tokens per second of the step's parts, and the FLOPs of its update where the model's family is known.

    Every FLOP of the model counts once, whatever is computed twice to save memory (MFU, arXiv 2204.02311,
    appendix B); the shares of the peak and of the decode roof are given on GPUs that are known. Episodes that were
    sampled beside the update before took `ahead_s` there, and none of this step's time.
    """
    seconds, num_ranks = sum(laps.values()), world_size()
    tokens = sum(len(episode.token_ids) for episode in episodes)
    found = {
        "perf/tokens_per_s": tokens / seconds,
        "perf/tokens_per_s_per_rank": tokens / seconds / num_ranks,
        "perf/samples_per_s": len(episodes) / seconds,
        "perf/rollout_tokens_per_s": sum(e.num_model_tokens for e in episodes) / (ahead_s or laps["time/rollout_s"]),
    }
    if model_config.get("model_type") not in FAMILIES:
        return found
    shape = ModelShape.from_hf_config(model_config)
    lengths = [len(sequence.token_ids) for sequence in experience.sequences]
    # A critic has no language-model head.
    forward = forward_flops(shape, lengths, experience.num_tokens) + has_critic * forward_flops(shape, lengths, 0)
    rate = 3 * forward / laps["time/update_s"] / num_ranks
    found["perf/update_tflops_per_rank"] = rate / 1e12
    for gpu in gpus_named(torch.cuda.get_device_name()) if torch.cuda.is_available() else []:
        found["perf/mfu"] = rate / gpu.flops_per_s(config.parallel.compute_dtype)
        roof = num_ranks * decode_roof(episodes, shape, gpu, config)
        found["perf/decode_roof_frac"] = found["perf/rollout_tokens_per_s"] / roof
    return found


def decode_roof(episodes: Sequence[Episode], shape: ModelShape, gpu: Gpu, config: TrainConfig) -> float:
    """Return the tokens a second that one engine cannot exceed with as many of these episodes as it holds at a time."""
    width = engine_bytes_per_number(config)
    contexts = [turn.start + (turn.end - turn.start) / 2 for episode in episodes for turn in episode.turns]
    written = [turn.end - turn.start for episode in episodes for turn in episode.turns]
    return decode_roof_tokens_per_s(
        shape,
        min(config.num_slots, max(1.0, len(episodes) / world_size())),
        float(np.average(contexts, weights=written)) if any(written) else 0.0,
        bytes_per_s=gpu.bandwidth_tb_per_s * 1e12,
        flops_per_s=gpu.flops_per_s("bfloat16" if width == 2 else "float32"),
        bytes_per_number=width,
    )


def gpus_named(device_name: str) -> list[Gpu]:
    """Return the GPU a driver calls `device_name`, in a list that is empty for an unknown one."""
    words = set(re.findall(r"[A-Z]+\d+[A-Z]?|\d+(?=GB)", device_name.upper()))
    return [gpu for gpu in GPUS.values() if words >= set(gpu.name.upper().split("-"))]
