"""What the model is shown: the prompt, the observation after a search, the notice after an invalid turn.

Retrieved text is hostile: tags in it are neutralised before it enters the context, and an observation
always ends with its own closing tag.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from components.agent.config import LoopConfig
from components.contracts.errors import ConfigError
from components.contracts.passage import ScoredPassage

OPEN_INFORMATION, CLOSE_INFORMATION = "<information>", "</information>"
_TAG = re.compile(r"<\s*(/?)\s*(think|search|information|answer)\s*>", re.IGNORECASE)


class AddedToken(Protocol):
    """A token matched before the text is split; a special one steers the model."""

    content: str
    special: bool


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer the loop needs."""

    chat_template: str | None
    added_tokens_decoder: dict[int, "AddedToken"]
    """Every added token by id."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of `text`."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`, special tokens included."""

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """Return a conversation as the model's own prompt text."""


@dataclass(frozen=True, slots=True)
class Template:
    """The wording of a loop; `{question}` is replaced in the prompts."""

    with_search: str
    without_search: str
    invalid_notice: str


TEMPLATES: dict[str, Template] = {
    "plain": Template(
        with_search="Question: {question}\n\n",
        without_search="Question: {question}\n\n",
        invalid_notice="\n\nsearch or answer.\n\n",
    ),
    "search-r1": Template(
        with_search=(
            "Find the answer to the question below. Whenever you learn something, reason about it first between "
            "<think> and </think>. If you lack a fact, ask the search engine by writing a query as "
            "<search> query </search>; what it finds is returned between <information> and </information>. Search "
            "as many times as you need. Once nothing is missing, write the answer alone, without explanation, as "
            "<answer> answer </answer>; for example <answer> Beijing </answer>.\nQuestion: {question}\n"
        ),
        without_search=(
            "Find the answer to the question below. Reason first between <think> and </think>. Then write the answer "
            "alone, without explanation, as <answer> answer </answer>; for example <answer> Beijing </answer>.\n"
            "Question: {question}\n"
        ),
        invalid_notice=(
            "\nThat was neither a search nor an answer. Put a query between search tags, or the final answer "
            "between answer tags.\n"
        ),
    ),
}


def prompt_ids(question: str, loop: LoopConfig, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of the prompt for `question`, inside the chat template where the tokenizer has one.

    Raises:
        ConfigError: the prompt leaves no room for a turn in `max_context_tokens`.
    """
    template = TEMPLATES[loop.template]
    wording = template.with_search if loop.search_enabled else template.without_search
    ids = user_turn_ids(wording.format(question=asked(question, tokenizer)), tokenizer)
    if len(ids) + loop.max_turn_tokens > loop.max_context_tokens:
        raise ConfigError(
            f"The prompt of question {question[:80]!r} takes {len(ids)} tokens",
            f"at most {loop.max_context_tokens - loop.max_turn_tokens} (max_context_tokens - max_turn_tokens)",
            "raise max_context_tokens or leave the question out",
        )
    return ids


def asked(question: str, tokenizer: Tokenizer) -> str:
    """Return the question as prompts show it: stripped, harmless, ending with a question mark."""
    question = neutralise(question.strip(), tokenizer)
    return question if question.endswith("?") else f"{question}?"


def user_turn_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of `text` as a user's turn of the chat template, or as it is where there is none."""
    if tokenizer.chat_template:
        conversation = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template)


def neutralise(text: str, tokenizer: Tokenizer) -> str:
    """Return `text` without power over the loop or the chat template.

    The loop's tags become brackets (`</answer>` -> `(/answer)`), and a blank splits the tokenizer's special tokens.
    """
    text = _TAG.sub(r"(\1\2)", text)
    for special in _special_texts(tokenizer):
        if special in text:
            text = text.replace(special, f"{special[0]} {special[1:]}")
    return text


@lru_cache(maxsize=8)
def _special_texts(tokenizer: Tokenizer) -> tuple[str, ...]:
    added = tokenizer.added_tokens_decoder.values()
    return tuple(sorted(token.content for token in added if token.special and len(token.content) > 1))


def passages_text(passages: Sequence[ScoredPassage], tokenizer: Tokenizer) -> str:
    """Return the passages as the model reads them, best first, neutralised."""
    lines = []
    for rank, found in enumerate(passages, start=1):
        title, text = neutralise(found.passage.title, tokenizer), neutralise(found.passage.text, tokenizer)
        lines.append(f'Doc {rank}(Title: "{title}") {text}\n' if title else f"Doc {rank} {text}\n")
    return "".join(lines)


def observation_ids(passages: Sequence[ScoredPassage], budget_tokens: int, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of an observation of `budget_tokens` at most; passages are cut, tags never.

    Passages are never cut to nothing, which would look like an empty result: a budget that leaves them no
    room is exceeded by one token, and the caller sees that it does not fit.
    """
    opening, closing = _information_ids(tokenizer)
    body = tokenizer.encode(passages_text(passages, tokenizer), add_special_tokens=False)
    return opening + body[: max(1, budget_tokens - len(opening) - len(closing))] + closing


@lru_cache(maxsize=8)
def _information_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    opening = tokenizer.encode(f"\n\n{OPEN_INFORMATION}", add_special_tokens=False)
    closing = tokenizer.encode(f"{CLOSE_INFORMATION}\n\n", add_special_tokens=False)
    return opening, closing


def notice_ids(loop: LoopConfig, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the notice that follows an invalid turn."""
    return tokenizer.encode(TEMPLATES[loop.template].invalid_notice, add_special_tokens=False)
