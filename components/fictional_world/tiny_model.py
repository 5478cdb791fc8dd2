"""A tiny Qwen2 model with a byte-level Qwen2 tokenizer whose frequent pieces are the words of the world.

Every text can be encoded: what is no word of the world falls back to bytes.
"""

import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from components.fictional_world.names import first_words, last_words
from components.fictional_world.questions import (
    bridge_questions,
    chain_question,
    compositional_question,
    terse_question,
)
from components.fictional_world.relations import INFERENCES, RELATIONS, composable_pairs

HEAD_SIZE = 32
END = "<|endoftext|>"
TAGS = tuple(f"<{slash}{name}>" for name in ("think", "search", "information", "answer") for slash in ("", "/"))
_WORD = re.compile(r"[A-Za-z]+")


def build_tokenizer(extra_texts: Iterable[str]) -> Qwen2Tokenizer:
    """Return a tokenizer with one id per byte, per tag, per word of the world and per word of `extra_texts`.

    Words are pieces with their leading space, names also without it (a title begins with a quotation mark).
    """
    vocabulary = {piece: index for index, piece in enumerate([END, *sorted(ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    words = [*first_words(), *last_words(), "is", "a", "it", "or", "which", "has"]
    for text in [*_schema_texts(), *extra_texts]:
        words += _WORD.findall(re.sub(r"\{\w\}|<[^>]*>", " ", text))
    frequent = ["\n\n", "Question:", "Reading:", "answer:", "Doc ", '(Title: "', '")']
    pieces = [*TAGS, *frequent, *(f" {word}" for word in dict.fromkeys(words))]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in dict.fromkeys(pieces)])
    bare = [AddedToken(word, normalized=False, single_word=True) for word in first_words()]
    tokenizer.add_tokens(bare)
    tokenizer.model_max_length = 1024
    return tokenizer


def build_model(
    vocabulary_size: int, hidden_size: int, num_layers: int, intermediate_size: int, eos_id: int, pad_id: int
) -> Qwen2ForCausalLM:
    """Return a randomly initialised model with heads of 32 and tied embeddings (seeded by torch's generator)."""
    config = Qwen2Config(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // HEAD_SIZE,
        num_key_value_heads=hidden_size // HEAD_SIZE,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        initializer_range=0.02,
        tie_word_embeddings=True,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    if num_layers > 1 and hidden_size >= 3 * HEAD_SIZE:
        _plant_copying(model)
    return model


@torch.no_grad()
def _plant_copying(model: Qwen2ForCausalLM) -> None:
    """Start with heads that copy: "after X came Y, here is X again, so Y" (induction, arXiv 2209.11895).

    Layer 0 writes the previous token into the last 32 dimensions, which the embeddings leave free; layer 1
    looks for a place whose previous token is the current one and predicts the token found there. Without
    them a model of this size spends most of its pretraining on finding these two heads. They are an
    initialisation only: training may change every number.
    """
    width, head = model.config.hidden_size, HEAD_SIZE
    content = width - head
    projection = torch.linalg.qr(torch.randn(content, head))[0].T
    embeddings = model.get_input_embeddings().weight
    inner = 0.05
    embeddings.normal_(std=inner)
    embeddings[:, content:] = 0.0
    frequencies = 1_000_000.0 ** (-torch.arange(0, head, 2) / head)
    previous = model.model.layers[0].self_attn
    first = slice(0, head)
    for layer in (previous.q_proj, previous.k_proj, previous.v_proj):
        layer.weight[first] = 0.0
        layer.bias[first] = 0.0
    # Rotary position encoding turns these constants into a score that peaks one token back.
    sharpness = 60.0
    previous.k_proj.bias[: head // 2] = sharpness**0.5
    previous.q_proj.bias[: head // 2] = sharpness**0.5 * torch.cos(-frequencies)
    previous.q_proj.bias[head // 2 : head] = sharpness**0.5 * torch.sin(-frequencies)
    previous.v_proj.weight[first, :content] = projection
    previous.o_proj.weight[:, first] = 0.0
    previous.o_proj.weight[content:, first] = inner * torch.eye(head)
    # Only slowly rotating dimensions can compare contents at any distance.
    slow = torch.cat([frequencies, frequencies]) < 0.01
    copying = model.model.layers[1].self_attn
    for number in range(2):
        rows = slice(number * head, (number + 1) * head)
        copying.q_proj.weight[rows] = 0.0
        copying.q_proj.weight[rows, :content] = 1.5 * projection * slow[:, None]
        copying.k_proj.weight[rows] = 0.0
        copying.k_proj.weight[rows, content:] = 1.5 * torch.diag(slow.float())
        copying.v_proj.weight[rows] = 0.0
        copying.o_proj.weight[:, rows] = 0.0
        for i in range(head):
            copying.v_proj.weight[number * head + i, number * head + i] = 1.0
            copying.o_proj.weight[number * head + i, number * head + i] = 2 * inner


def _schema_texts() -> Iterable[str]:
    for relation in RELATIONS:
        yield from (relation.name, relation.subject, relation.object, relation.clause, relation.trivia)
        yield from relation.statements
        yield terse_question(relation, "")
    for inner, outer in composable_pairs():
        yield from (*bridge_questions(inner, outer, ""), compositional_question(inner, outer, ""))
        yield chain_question((inner, outer), "")
    yield from INFERENCES.values()
