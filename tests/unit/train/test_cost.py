"""Costs of a decoder against the models themselves, the library's FLOP counter, and the tensors autograd keeps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from components.contracts.errors import ConfigError
from components.train import cost
from components.train.cost import KNOWN_SHAPES, ModelShape


def qwen2(layers, hidden, intermediate, heads, kv_heads, vocab=151_936, tied=True):
    return Qwen2Config(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        tie_word_embeddings=tied,
    )


def llama(layers, hidden, intermediate, heads, kv_heads, head_size, vocab=128_256):
    return LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        vocab_size=vocab,
        tie_word_embeddings=True,
        max_position_embeddings=131_072,
    )


QWEN3 = Qwen3Config(
    num_hidden_layers=28,
    hidden_size=2048,
    intermediate_size=6144,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    tie_word_embeddings=True,
)
SMALL_QWEN3 = Qwen3Config(
    num_hidden_layers=3,
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=32,
    vocab_size=50,
)
# Published sizes of the models (their cards and safetensors headers).
CONFIGS = [
    pytest.param(qwen2(24, 896, 4864, 14, 2), 494_032_768, "", id="qwen2.5-0.5b"),
    pytest.param(qwen2(28, 1536, 8960, 12, 2), 1_543_714_304, "Qwen/Qwen2.5-1.5B", id="qwen2.5-1.5b"),
    pytest.param(qwen2(36, 2048, 11_008, 16, 2), 3_085_938_688, "Qwen/Qwen2.5-3B", id="qwen2.5-3b"),
    pytest.param(qwen2(28, 3584, 18_944, 28, 4, 152_064, False), 7_615_616_512, "Qwen/Qwen2.5-7B", id="qwen2.5-7b"),
    pytest.param(qwen2(48, 5120, 13_824, 40, 8, 152_064, False), 14_770_033_664, "Qwen/Qwen2.5-14B", id="qwen2.5-14b"),
    pytest.param(llama(16, 2048, 8192, 32, 8, 64), 1_235_814_400, "meta-llama/Llama-3.2-1B", id="llama-3.2-1b"),
    pytest.param(llama(28, 3072, 8192, 24, 8, 128), 3_212_749_824, "meta-llama/Llama-3.2-3B", id="llama-3.2-3b"),
    pytest.param(QWEN3, 1_720_574_976, "", id="qwen3-1.7b"),
]


@pytest.mark.parametrize(("config", "published", "name"), CONFIGS)
def test_parameters_are_those_of_the_model(config, published, name):
    shape = ModelShape.from_hf_config(config.to_dict())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters()) == published
    assert shape.backbone_parameters == sum(p.numel() for p in model.base_model.parameters())
    assert shape.layer_parameters == sum(p.numel() for p in model.base_model.layers[0].parameters())
    assert not name or KNOWN_SHAPES[name] == shape


SMALL = [
    pytest.param(qwen2(3, 64, 96, 4, 2, vocab=50), id="qwen2"),
    pytest.param(qwen2(2, 48, 80, 3, 3, vocab=31, tied=False), id="untied"),
    pytest.param(llama(2, 64, 96, 4, 2, 32, vocab=50), id="llama with wide heads"),
]


@pytest.mark.parametrize("config", SMALL)
def test_flops_are_those_the_library_counts(config):
    rows, length = 2, 37
    shape = ModelShape.from_hf_config(config.to_dict())
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.randint(config.vocab_size, (rows, length))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids).logits.logsumexp(-1).sum()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    backward = counter.get_total_flops()
    # The counter also sees the pairs above the diagonal, which a causal kernel skips.
    above = rows * length**2 - cost.causal_pairs([length] * rows)
    ours = cost.forward_flops(shape, [length] * rows, rows * length)
    skipped = cost.backbone_flops(shape, 0, above)
    assert forward == pytest.approx(ours + skipped, rel=1e-12)
    assert backward == pytest.approx(2 * (ours + skipped), rel=1e-12)
    assert cost.train_flops_per_token(shape, length) == pytest.approx(3 * ours / (rows * length))


def test_the_head_costs_only_where_it_runs():
    shape = KNOWN_SHAPES["Qwen/Qwen2.5-3B"]
    whole = cost.forward_flops(shape, [2000], 2000)
    assert whole - cost.forward_flops(shape, [2000], 500) == 1500 * 2 * 2048 * 151_936


PUBLISHED = [
    # forward GFLOPs per token at a mean context of 1,000 with the head on every token; cache bytes per token;
    # decode roofs at 64, 256, 512 sequences of 1,200 tokens on an H100 (computed elsewhere, two digits)
    pytest.param("Qwen/Qwen2.5-1.5B", 3.26, 28_700, (40e3, 72e3, 83e3), id="1.5b"),
    pytest.param("Qwen/Qwen2.5-3B", 6.47, 36_900, (24e3, 49e3, 60e3), id="3b"),
    pytest.param("Qwen/Qwen2.5-7B", 14.5, 57_000, (11e3, 26e3, 34e3), id="7b"),
]


@pytest.mark.parametrize(("name", "giga", "cache", "roofs"), PUBLISHED)
def test_costs_agree_with_figures_computed_elsewhere(name, giga, cache, roofs):
    shape = KNOWN_SHAPES[name]
    assert cost.forward_flops(shape, [2000], 2000) / 2000 / 1e9 == pytest.approx(giga, rel=0.005)
    assert shape.kv_bytes_per_token() == pytest.approx(cache, rel=0.01)
    for sequences, roof in zip((64, 256, 512), roofs, strict=True):
        ours = cost.decode_roof_tokens_per_s(shape, sequences, 1200, bytes_per_s=3.35e12, flops_per_s=989e12)
        # Untied embeddings are looked up, not read whole, which that table did not leave out.
        assert ours == pytest.approx(roof, rel=0.02 if shape.tied_embeddings else 0.06)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        pytest.param("Qwen/Qwen2.5-3B", 3_085_938_688, id="tied"),
        pytest.param("Qwen/Qwen2.5-7B", 7_615_616_512 - 152_064 * 3584, id="untied-embeddings-are-looked-up"),
    ],
)
def test_a_roof_of_one_sequence_is_the_bytes_of_its_weights(name, read):
    roof = cost.decode_roof_tokens_per_s(KNOWN_SHAPES[name], 1, 0, bytes_per_s=3.35e12, flops_per_s=989e12)
    assert roof == pytest.approx(3.35e12 / (2 * read), rel=1e-6)


def test_a_roof_of_many_short_sequences_is_the_arithmetic():
    shape = KNOWN_SHAPES["Qwen/Qwen2.5-3B"]
    roof = cost.decode_roof_tokens_per_s(shape, 1e6, 1, bytes_per_s=3.35e12, flops_per_s=989e12)
    assert roof == pytest.approx(989e12 / cost.forward_flops(shape, [1], 1), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(qwen2(3, 64, 176, 4, 4, vocab=50), id="wide unit"),
        pytest.param(qwen2(3, 128, 128, 4, 4, vocab=50), id="narrow unit"),
        pytest.param(SMALL_QWEN3, id="norms of heads"),
    ],
)
def test_activations_are_the_tensors_autograd_keeps(config, dtype):
    rows, length = 2, 64
    shape = ModelShape.from_hf_config(config.to_dict())
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(config.vocab_size, (rows, length))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=ids, use_cache=False)
    measured = sum(storage.nbytes() for storage in kept.values())
    in_layer, _ = cost.activation_bytes_per_token(shape, dtype.itemsize)
    # The last norm, the ids, the angles and a few numbers per row come on top.
    assert measured / (rows * length * shape.num_layers) == pytest.approx(in_layer, rel=0.08)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({"model_type": "mamba"}, "mamba", id="unknown family"),
        pytest.param({}, "None", id="no family"),
        pytest.param({"model_type": "llama", "attention_bias": True}, "biases", id="biases of a llama"),
        pytest.param({"model_type": "qwen2", "hidden_size": 4}, "num_attention_heads", id="missing number"),
    ],
)
def test_a_configuration_that_cannot_be_counted_is_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        ModelShape.from_hf_config(config)
