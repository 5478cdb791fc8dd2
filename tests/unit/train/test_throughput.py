"""Rates of a step against numbers worked out by hand."""

import pytest
from transformers import Qwen2Config

from components.train.throughput import peak_flops_per_s, throughput_metrics

LAPS = {"time/rollout_s": 2.0, "time/score_s": 1.0, "time/update_s": 4.0, "time/publish_s": 1.0}


@pytest.mark.parametrize("has_critic", [False, True])
def test_rates_are_tokens_and_flops_over_seconds(make_experience, policy, has_critic):
    experience = make_experience(5)
    config = policy.config.to_dict()
    found = throughput_metrics(experience.episodes, experience, LAPS, config, has_critic=has_critic, dtype="float32")
    lengths = [len(episode.token_ids) for episode in experience.episodes]
    assert found["perf/tokens_per_s"] == found["perf/tokens_per_s_per_rank"] == sum(lengths) / 8
    assert found["perf/rollout_tokens_per_s"] == sum(e.num_model_tokens for e in experience.episodes) / 2
    # Two layers: queries and outputs 32 x 32, keys and values 32 x 16, a gated unit 3 x 32 x 32; a head of 23 x 32.
    products = 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 32) * sum(lengths)
    attention = 2 * 4 * 32 * sum(n * (n + 1) / 2 for n in lengths)
    head = 2 * 23 * 32 * experience.num_tokens
    passes = 6 if has_critic else 3
    assert found["perf/update_tflops_per_rank"] == pytest.approx(passes * (products + attention + head) / 4 / 1e12)


def test_a_family_of_unknown_cost_has_no_flops(make_experience):
    experience = make_experience(2)
    config = Qwen2Config().to_dict() | {"model_type": "mamba"}
    found = throughput_metrics(experience.episodes, experience, LAPS, config, has_critic=False, dtype="float32")
    assert {name for name in found if "flops" in name or "mfu" in name} == set()


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("NVIDIA H200", [989e12]),
        ("NVIDIA H20", [148e12]),
        ("NVIDIA H100 80GB HBM3", [989e12]),
        ("NVIDIA A100-SXM4-80GB", [312e12]),
        ("NVIDIA L40S", [362e12]),
        ("NVIDIA GeForce RTX 4090", []),
    ],
)
def test_the_peak_of_a_gpu_is_found_by_its_name(name, peaks):
    assert peak_flops_per_s(name, "bfloat16") == peaks
