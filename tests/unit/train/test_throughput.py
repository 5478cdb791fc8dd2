"""Rates of a step against numbers worked out by hand."""

import pytest
from transformers import Qwen2Config

from components.contracts.episode import Action, Episode, Turn
from components.train.config import TrainConfig
from components.train.cost import KNOWN_SHAPES, ModelShape
from components.train.plan_time import GPUS
from components.train.throughput import decode_roof, gpus_named, throughput_metrics

CONFIG = TrainConfig()
LAPS = {"time/rollout_s": 2.0, "time/score_s": 1.0, "time/update_s": 4.0, "time/publish_s": 1.0}


@pytest.mark.parametrize("has_critic", [False, True])
def test_rates_are_tokens_and_flops_over_seconds(make_experience, policy, has_critic):
    experience = make_experience(5)
    config = policy.config.to_dict()
    found = throughput_metrics(experience.episodes, experience, LAPS, config, has_critic=has_critic, config=CONFIG)
    lengths = [len(episode.token_ids) for episode in experience.episodes]
    assert found["perf/tokens_per_s"] == found["perf/tokens_per_s_per_rank"] == sum(lengths) / 8
    assert found["perf/samples_per_s"] == 5 / 8
    assert found["perf/rollout_tokens_per_s"] == sum(e.num_model_tokens for e in experience.episodes) / 2
    # Two layers: queries and outputs 32 x 32, keys and values 32 x 16, a gated unit 3 x 32 x 32; a head of 23 x 32.
    products = 2 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 32) * sum(lengths)
    attention = 2 * 4 * 32 * sum(n * (n + 1) / 2 for n in lengths)
    head = 2 * 23 * 32 * experience.num_tokens
    # A critic is the same layers with a head of one number.
    flops = 3 * ((1 + has_critic) * (products + attention) + head)
    assert found["perf/update_tflops_per_rank"] == pytest.approx(flops / 4 / 1e12)


def test_a_rollout_beside_the_update_before_took_its_time_there(make_experience, policy):
    experience = make_experience(5)
    given = experience.episodes, experience, LAPS, policy.config.to_dict()
    found = throughput_metrics(*given, has_critic=False, config=CONFIG, ahead_s=5.0)
    assert found["perf/rollout_tokens_per_s"] == sum(e.num_model_tokens for e in experience.episodes) / 5
    assert found["perf/samples_per_s"] == 5 / 8


def test_a_family_of_unknown_cost_has_no_flops(make_experience):
    experience = make_experience(2)
    config = Qwen2Config().to_dict() | {"model_type": "mamba"}
    found = throughput_metrics(experience.episodes, experience, LAPS, config, has_critic=False, config=CONFIG)
    assert {name for name in found if "flops" in name or "mfu" in name} == set()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H200", ["h200"]),
        ("NVIDIA H20", ["h20"]),
        ("NVIDIA H100 80GB HBM3", ["h100"]),
        ("NVIDIA A100-SXM4-80GB", ["a100-80"]),
        ("NVIDIA L40S", ["l40s"]),
        ("NVIDIA GeForce RTX 4090", []),
    ],
)
def test_a_gpu_is_found_by_its_name(name, known):
    assert [gpu.name for gpu in gpus_named(name)] == known


@pytest.mark.parametrize(("num_slots", "held"), [(4, 4), (100, 10)])
def test_roof_of_decoding_is_bandwidth_over_weights_and_cache(num_slots, held):
    """Ten episodes with turns at 100..400 and 1,300..1,400, on the engine's slots.

    Three of four tokens see 250 others in the mean, the fourth sees 1,350.
    """
    shape = KNOWN_SHAPES["Qwen/Qwen2.5-3B"]
    episode = Episode("q", [0] * 1400, 100)
    episode.turns = [Turn(100, 400, Action.SEARCH, ""), Turn(1300, 1400, Action.ANSWER, "")]
    config = TrainConfig(num_slots=num_slots, engine="vllm")
    found = decode_roof([episode] * 10, shape, GPUS["h200"], config)
    bytes_of_a_step = 2 * shape.num_parameters + held * 525 * 2 * 36 * 256 * 2
    assert found == pytest.approx(held * 4.8e12 / bytes_of_a_step)


def test_a_known_gpu_gets_its_shares(make_experience, policy, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    experience, config = make_experience(5), policy.config.to_dict()
    found = throughput_metrics(experience.episodes, experience, LAPS, config, has_critic=False, config=CONFIG)
    assert found["perf/mfu"] == pytest.approx(found["perf/update_tflops_per_rank"] / 67)
    roof = decode_roof(experience.episodes, ModelShape.from_hf_config(config), GPUS["h200"], CONFIG)
    assert found["perf/decode_roof_frac"] == pytest.approx(found["perf/rollout_tokens_per_s"] / roof)
