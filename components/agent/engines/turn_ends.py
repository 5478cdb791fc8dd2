"""Decides after every sampled token whether its turn ended; no engine cuts text, so that all of them agree.

A tokenizer may cut `</search>` into several tokens, whose first and last carry other characters too. Only
the text of the sampled tokens tells, and only at tokens that hold the last character of a stop string.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.agent.engines.protocol import TurnRequest

Finish = Literal["stop", "eos", "length"]
_BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class _Stops:
    """Stop strings, the only tokens worth looking at for them, and how many tokens such a string can span."""

    strings: tuple[str, ...]
    closing_ids: frozenset[int]
    span_tokens: int


class TurnEnds:
    """Stop strings, end tokens and budgets of turns, for one tokenizer."""

    def __init__(self, tokenizer: Any, generation_config: Any = None) -> None:
        """Take the end tokens from a Hugging Face tokenizer and, where there is one, from the generation config."""
        self._tokenizer = tokenizer
        configured = generation_config.eos_token_id if generation_config else None
        ids = configured if isinstance(configured, list) else [configured]
        self.end_ids = frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
        self._stops: dict[tuple[str, ...], _Stops] = {}

    def finish(self, request: TurnRequest, token_ids: Sequence[int]) -> Finish | None:
        """Return how the turn ended with the last of its sampled `token_ids`, or None when it goes on."""
        if token_ids[-1] in self.end_ids:
            return "eos"
        stops = self._stops_for(request.stop_strings)
        if token_ids[-1] in stops.closing_ids:
            tail = self._tokenizer.decode(token_ids[-stops.span_tokens :])
            if any(stop in tail for stop in stops.strings):
                return "stop"
        return "length" if len(token_ids) >= request.max_new_tokens else None

    def _stops_for(self, strings: tuple[str, ...]) -> _Stops:
        if strings not in self._stops:
            last = {string[-1] for string in strings}
            # The bytes of such a character may lie in several tokens, none of which shows it.
            last |= {_BROKEN for character in last if not character.isascii()}
            texts = (self._tokenizer.decode([i]) for i in range(len(self._tokenizer))) if last else ()
            closing = frozenset(i for i, text in enumerate(texts) if not last.isdisjoint(text))
            longest = max((len(string.encode()) for string in strings), default=0)
            self._stops[strings] = _Stops(strings, closing, longest + 1)
        return self._stops[strings]
