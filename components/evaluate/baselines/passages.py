"""Prompts that hold passages: as many of their tokens as a limit and the context allow."""

from collections.abc import Callable, Iterable, Sequence

from components.agent.config import LoopConfig
from components.agent.prompt import Tokenizer, passages_text
from components.contracts.passage import ScoredPassage


def prompt_with_passages(
    make_prompt: Callable[[str], list[int]],
    passages: Sequence[ScoredPassage],
    max_tokens: int,
    loop: LoopConfig,
    tokenizer: Tokenizer,
) -> list[int]:
    """Return `make_prompt` of the passages' text, cut to `max_tokens` and to what the context leaves beside a turn."""
    around = len(make_prompt("")) + loop.max_turn_tokens
    budget = max(0, min(max_tokens, loop.max_context_tokens - around))
    text = passages_text(passages, tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return make_prompt(text if len(ids) <= budget else tokenizer.decode(ids[:budget]) + "\n")


def distinct(passages: Iterable[ScoredPassage]) -> list[ScoredPassage]:
    """Return each passage once, where it was found first."""
    first: dict[str, ScoredPassage] = {}
    for found in passages:
        first.setdefault(found.passage.id, found)
    return list(first.values())
