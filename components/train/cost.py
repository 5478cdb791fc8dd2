"""What a decoder costs: parameters, FLOPs of a pass, bytes of cache, and the roof of decoding.

Counted from the numbers in a Hugging Face config.json; nothing is loaded, nothing is looked up.
A multiplication with an addition is two FLOPs; norms, rotations and softmax, well below one percent, are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.contracts.errors import ConfigError

FAMILIES = ("qwen2", "qwen3", "llama")
"""Values of `model_type` whose layers are known here."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a decoder that decide what it costs."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    tied_embeddings: bool
    qkv_bias: bool = False
    qk_norm: bool = False
    max_positions: int | None = None
    """None is a config.json that names no limit."""

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Return the shape that a config.json (or `model.config.to_dict()`) describes.

        Raises:
            ConfigError: the family is not known here, or a number is missing.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ConfigError(f"model_type = {family!r} is a family whose costs are not known", ", ".join(FAMILIES))
        if family != "qwen2" and (config.get("attention_bias") or config.get("mlp_bias")):
            raise ConfigError(f"A {family} model with biases is not known here", "attention_bias and mlp_bias false")
        try:
            heads, hidden = config["num_attention_heads"], config["hidden_size"]
            return cls(
                num_layers=config["num_hidden_layers"],
                hidden_size=hidden,
                intermediate_size=config["intermediate_size"],
                num_heads=heads,
                num_kv_heads=config.get("num_key_value_heads") or heads,
                head_size=config.get("head_dim") or hidden // heads,
                vocab_size=config["vocab_size"],
                tied_embeddings=config.get("tie_word_embeddings", False),
                qkv_bias=family == "qwen2",
                qk_norm=family == "qwen3",
                max_positions=config.get("max_position_embeddings"),
            )
        except KeyError as missing:
            raise ConfigError(f"The model's configuration has no {missing}", remedy="give its config.json") from None

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of all key heads together."""
        return self.num_kv_heads * self.head_size

    @property
    def layer_matrix_parameters(self) -> int:
        """Parameters of one layer that every token is multiplied with."""
        attention = 2 * self.hidden_size * (self.query_size + self.kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """All parameters of one layer."""
        biases = (self.query_size + 2 * self.kv_size) * self.qkv_bias
        return self.layer_matrix_parameters + biases + 2 * self.hidden_size + 2 * self.head_size * self.qk_norm

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding, which are also those of the head."""
        return self.vocab_size * self.hidden_size

    @property
    def backbone_parameters(self) -> int:
        """Parameters below the language-model head; a critic has one more per hidden unit, and a bias."""
        return self.embedding_parameters + self.num_layers * self.layer_parameters + self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Parameters of the language model; tied embeddings count once."""
        return self.backbone_parameters + self.embedding_parameters * (not self.tied_embeddings)

    @property
    def critic_parameters(self) -> int:
        """Parameters of the backbone with a scalar head."""
        return self.backbone_parameters + self.hidden_size + 1

    def kv_bytes_per_token(self, bytes_per_number: int = 2) -> int:
        """Return the bytes of keys and values that one token leaves in the cache."""
        return 2 * self.num_layers * self.kv_size * bytes_per_number


def _qwen(layers: int, hidden: int, intermediate: int, heads: int, kv: int, vocab: int, tied: bool) -> ModelShape:
    return ModelShape(layers, hidden, intermediate, heads, kv, 128, vocab, tied, qkv_bias=True, max_positions=32_768)


KNOWN_SHAPES: dict[str, ModelShape] = {
    "Qwen/Qwen2.5-1.5B": _qwen(28, 1536, 8960, 12, 2, 151_936, True),
    "Qwen/Qwen2.5-3B": _qwen(36, 2048, 11_008, 16, 2, 151_936, True),
    "Qwen/Qwen2.5-7B": _qwen(28, 3584, 18_944, 28, 4, 152_064, False),
    "Qwen/Qwen2.5-14B": _qwen(48, 5120, 13_824, 40, 8, 152_064, False),
    "meta-llama/Llama-3.2-1B": ModelShape(16, 2048, 8192, 32, 8, 64, 128_256, True, max_positions=131_072),
    "meta-llama/Llama-3.2-3B": ModelShape(28, 3072, 8192, 24, 8, 128, 128_256, True, max_positions=131_072),
}
"""Hub name without `-Instruct` -> the public numbers of its config.json; positions are those of the instruct model,
which may have fewer than its base."""


def causal_pairs(lengths: Sequence[float]) -> float:
    """Return how many (query, key) pairs causal attention over sequences of these lengths has."""
    return sum(length * (length + 1) / 2 for length in lengths)


def backbone_flops(shape: ModelShape, num_tokens: float, num_pairs: float) -> float:
    """Return the FLOPs of one forward pass through the layers for so many tokens and (query, key) pairs."""
    per_token = 2 * shape.num_layers * shape.layer_matrix_parameters
    per_pair = 4 * shape.num_layers * shape.query_size
    return per_token * num_tokens + per_pair * num_pairs


def head_flops(shape: ModelShape, num_tokens: float) -> float:
    """Return the FLOPs of the language-model head on so many tokens."""
    return 2 * shape.embedding_parameters * num_tokens


def forward_flops(shape: ModelShape, lengths: Sequence[float], head_tokens: float) -> float:
    """Return the FLOPs of one forward pass over sequences of these lengths, the head on `head_tokens` of them."""
    return backbone_flops(shape, sum(lengths), causal_pairs(lengths)) + head_flops(shape, head_tokens)


def train_flops_per_token(shape: ModelShape, length: float, trained_frac: float = 1.0) -> float:
    """Return the FLOPs per token of a forward and backward pass over sequences of `length` tokens.

    The backward pass costs twice the forward one. Anything a program computes twice to save memory does not
    count, so that an MFU (arXiv 2204.02311, appendix B) made with this says how fast a model learns.
    """
    return 3 * forward_flops(shape, [length], trained_frac * length) / length


def decode_roof_tokens_per_s(
    shape: ModelShape,
    num_sequences: float,
    context_tokens: float,
    *,
    bytes_per_s: float,
    flops_per_s: float,
    bytes_per_number: int = 2,
) -> float:
    """Return the tokens a second that decoding cannot exceed: every step reads all weights and the whole cache.

    The larger of the time for the bytes and the time for the FLOPs counts. Of untied embeddings only the head is read.
    """
    weights = shape.num_parameters - shape.embedding_parameters * (not shape.tied_embeddings)
    cache = num_sequences * context_tokens * shape.kv_bytes_per_token(bytes_per_number)
    flops = backbone_flops(shape, num_sequences, num_sequences * context_tokens) + head_flops(shape, num_sequences)
    step_s = max((weights * bytes_per_number + cache) / bytes_per_s, flops / flops_per_s)
    return num_sequences / step_s


def activation_bytes_per_token(shape: ModelShape, bytes_per_number: int = 2, *, fused: bool = False) -> tuple[int, int]:
    """Return the bytes per token that a layer keeps for its backward pass: (all of them, its input alone).

    A norm keeps its input in float32, the normalised input and its output, which is the next matrix's input;
    attention keeps queries, keys, values and its output; the gated unit keeps four tensors of its own width. A `fused`
    layer (torch.compile) keeps of a norm what went in and what came out, and of the unit three: what is cheap is
    computed again.
    """
    hidden, heads = shape.hidden_size, shape.query_size + shape.kv_size
    kept_of_norm = 2 * bytes_per_number if fused else 4 + 2 * bytes_per_number
    norms = 2 * hidden * kept_of_norm + heads * (4 + bytes_per_number) * shape.qk_norm
    attention = 2 * heads * bytes_per_number
    gated_unit = (3 if fused else 4) * shape.intermediate_size * bytes_per_number
    return norms + attention + gated_unit, hidden * bytes_per_number
