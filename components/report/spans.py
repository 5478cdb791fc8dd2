"""Tokens as a reader meets them: neighbouring ones of one source as a piece of text, each with its numbers."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from components.contracts.episode import Episode

SpanSource = Literal["prompt", "model", "retrieved"]
Decode = Callable[[Sequence[int]], str]
_DIGITS = 4
_LARGEST = 1e4


class Span(BaseModel):
    """Neighbouring tokens of one source as text; `retrieved` covers passages and notices (masked tokens).

    `tokens`, `logprobs` and `advantages` run parallel; each is empty where nothing is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SpanSource
    text: str
    num_tokens: int
    tokens: tuple[str, ...] = ()
    """Text of each token, together `text`; a token that ends within a character shows it with a later one."""
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each token when it was sampled."""
    advantages: tuple[float, ...] = ()
    """What the policy loss multiplied each token with."""

    @model_validator(mode="after")
    def _is_parallel(self) -> Self:
        if self.tokens and ("".join(self.tokens) != self.text or len(self.tokens) != self.num_tokens):
            raise ValueError("the tokens of a span do not make up its text")
        if any(values and len(values) != len(self.tokens) for values in (self.logprobs, self.advantages)):
            raise ValueError("a span has numbers for other tokens than its own")
        return self


def episode_spans(episode: Episode, decode: Decode, advantages: Mapping[int, float] | None = None) -> tuple[Span, ...]:
    """Return the whole episode as spans in order, the prompt first.

    Tokens of the model carry their log-probabilities. `advantages` maps positions to advantages; spans all of
    whose positions it holds carry them.
    """
    known = advantages or {}
    prompt = episode.token_ids[: episode.prompt_length_tokens]
    spans = [Span(source="prompt", text=decode(prompt), num_tokens=len(prompt))]
    rest = range(episode.prompt_length_tokens, len(episode.token_ids))
    for is_model, group in groupby(rest, key=lambda position: episode.is_model_token[position]):
        positions = list(group)
        tokens = token_texts([episode.token_ids[position] for position in positions], decode)
        has_advantages = all(position in known for position in positions)
        spans.append(
            Span(
                source="model" if is_model else "retrieved",
                text="".join(tokens),
                num_tokens=len(positions),
                tokens=tuple(tokens) if is_model or has_advantages else (),
                logprobs=tuple(_short(episode.logprobs[position]) for position in positions) if is_model else (),
                advantages=tuple(_short(known[position]) for position in positions) if has_advantages else (),
            )
        )
    return tuple(spans)


def token_texts(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """Return the text each token adds, in one pass over short windows.

    A token that ends within a UTF-8 character adds nothing; the token that completes it adds the character.
    """
    texts: list[str] = []
    first, done = 0, 0  # Tokens [first, done) are the context that fixes spaces; those up to `done` are shown.
    for end in range(1, len(token_ids) + 1):
        before, now = decode(token_ids[first:done]), decode(token_ids[first:end])
        is_last = end == len(token_ids)
        if len(now) > len(before) and (is_last or not now.endswith("\N{REPLACEMENT CHARACTER}")):
            texts.append(now[len(before) :])
            first, done = done, end
        else:
            texts.append("")
    return texts


def _short(value: float) -> float:
    """JSON knows no infinity: a token of probability 0 gets a number that no real one has."""
    return round(max(-_LARGEST, min(_LARGEST, float(value))), _DIGITS)
