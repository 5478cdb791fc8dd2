"""Settings that are each right and contradict each other are refused before anything starts, with what to set."""

import pytest
from transformers import CohereConfig, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config

from components.contracts.errors import ConfigError
from components.train.combinations import check_attention, check_combinations, check_heads
from components.train.config import TrainConfig
from components.train.main import run

CORRECTED = {"max_staleness_steps": 1, "correction": {"mode": "decoupled"}}


def on_vllm(tensor_parallel: int, ranks: int, **values) -> dict:
    parallel = {"cpu_ranks": ranks} | values.pop("parallel", {})
    return {"engine": "vllm", "vllm": {"tensor_parallel": tensor_parallel}, "parallel": parallel} | values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({"max_staleness_steps": 1}, "train.correction.mode = 'bypass'", id="ahead-without-correction"),
        pytest.param(
            CORRECTED | {"engine": "vllm", "vllm": {"sleep_between_rollouts": True}}, "sleep_between", id="ahead-asleep"
        ),
        pytest.param(on_vllm(2, 2, **CORRECTED), "tensor_parallel = 2 would meet", id="ahead-in-groups"),
        pytest.param(
            on_vllm(2, 2, parallel={"share_rollouts": "stealing"}), "share_rollouts = 'stealing'", id="stealing"
        ),
        pytest.param(on_vllm(2, 1), r"(?s)a node has 1 ranks.*tensor_parallel = 1, or", id="no-neighbours"),
        pytest.param(on_vllm(4, 6), r"(?s)a node has 6 ranks.*tensor_parallel = 2, or", id="groups-of-other-nodes"),
        pytest.param({"parallel": {"compute_dtype": "bfloat16"}}, "shards nothing", id="precision-of-no-shard"),
        # Four ranks in all, but two of them on another machine.
        pytest.param(on_vllm(4, 2, parallel={"num_nodes": 2}), "a node has 2 ranks", id="group-over-two-nodes"),
    ],
)
def test_what_cannot_be_combined_is_refused_with_the_remedy(values, says):
    with pytest.raises(ConfigError, match=says) as raised:
        run(TrainConfig.parse(values), None, None, None, None)
    assert "What to do: set train." in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(on_vllm(2, 4), id="two-groups"),
        pytest.param(on_vllm(4, 4, parallel={"num_nodes": 2}), id="group-per-node"),
        pytest.param({"vllm": {"tensor_parallel": 2}}, id="the-torch-engine-does-not-read-it"),
        pytest.param({"parallel": {"compute_dtype": "bfloat16", "cpu_ranks": 2}}, id="half-precision-of-two-ranks"),
        pytest.param({"parallel": {"compute_dtype": "bfloat16", "gpus_per_node": 1}}, id="half-precision-of-a-gpu"),
    ],
)
def test_what_can_be_combined_is_allowed(values):
    check_combinations(TrainConfig.parse(values))


def test_model_whose_heads_cannot_be_dealt_is_refused():
    check_heads(TrainConfig.parse(on_vllm(4, 4)), 28)
    check_heads(TrainConfig.parse({"vllm": {"tensor_parallel": 2}}), 3)
    with pytest.raises(ConfigError, match=r"(?s)8, but the model has 28 attention heads.*tensor_parallel = 4"):
        check_heads(TrainConfig.parse(on_vllm(8, 8)), 28)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        pytest.param(
            Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=0),
            "sliding_window is 64",
            id="window",
        ),
        pytest.param(MistralConfig(sliding_window=64), "sliding_window is 64", id="window-of-another-family"),
        pytest.param(Qwen2Config(max_position_embeddings=64), "max_position_embeddings is 64", id="positions"),
        pytest.param(Gemma2Config(), "attn_logit_softcapping", id="bent-attention"),
        pytest.param(CohereConfig(logit_scale=0.06), "logit_scale", id="scaled-logits"),
        pytest.param(Qwen2Config(sliding_window=64), "", id="window-that-is-off"),
        pytest.param(LlamaConfig(max_position_embeddings=384), "", id="positions-that-just-suffice"),
    ],
)
def test_model_that_is_packed_otherwise_than_sampled_is_refused(model, says):
    config = TrainConfig.parse({"loop": {"max_context_tokens": 384}})
    if not says:
        check_attention(config, model)
        return
    with pytest.raises(ConfigError, match=says) as raised:
        check_attention(config, model)
    assert "What to do: set " in str(raised.value)


@pytest.mark.parametrize("size", [0, 3, 16])
def test_groups_are_of_a_size_that_cuts_vocabularies_evenly(size):
    with pytest.raises(ConfigError, match="tensor_parallel"):
        TrainConfig.parse({"vllm": {"tensor_parallel": size}})
