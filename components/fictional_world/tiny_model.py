"""A tiny Qwen2 model with a byte-level Qwen2 tokenizer whose frequent pieces are the words of the world.

Every text can be encoded: what is no word of the world falls back to bytes.
"""

import re
from collections.abc import Iterable

from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from components.fictional_world.names import first_words, last_words
from components.fictional_world.questions import bridge_question, chain_question, compositional_question, terse_question
from components.fictional_world.relations import INFERENCES, RELATIONS, composable_pairs

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
    pieces = [
        *TAGS,
        "\n\n",
        "Question:",
        "answer:",
        "Doc ",
        '(Title: "',
        '")',
        *(f" {word}" for word in dict.fromkeys(words)),
    ]
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
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        initializer_range=0.05,
        tie_word_embeddings=True,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def _schema_texts() -> Iterable[str]:
    for relation in RELATIONS:
        yield from (relation.name, relation.subject, relation.object, relation.clause, relation.trivia)
        yield from relation.statements
        yield terse_question(relation, "")
    for inner, outer in composable_pairs():
        yield from (bridge_question(inner, outer, ""), compositional_question(inner, outer, ""))
        yield chain_question((inner, outer), "")
    yield from INFERENCES.values()
