"""What a rollout needs of an inference engine: add a turn at any time, step, collect finished turns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from components.agent.actions import STOP_STRINGS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn of one sequence. `token_ids` is the whole context; what the engine saw of it earlier is reused."""

    sequence_id: int
    token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float
    """0 is greedy; otherwise the whole distribution is sampled (no top-p, no top-k)."""
    seed: int
    """Same seed, same context, same engine: same tokens, whatever else is in the batch."""
    stop_strings: tuple[str, ...] = STOP_STRINGS
    """The turn ends with the first of these that the model completes; none at all is allowed."""

    def check_fits(self, max_context_tokens: int) -> None:
        """Refuse a turn that an engine of `max_context_tokens` could not finish.

        Raises:
            ValueError: the context and the turn together exceed the limit.
        """
        needed = len(self.token_ids) + self.max_new_tokens
        if needed > max_context_tokens:
            raise ValueError(f"turn needs {needed} tokens of context, the engine has {max_context_tokens}")


@dataclass(frozen=True, slots=True)
class TurnOutput:
    """Sampled ids verbatim, up to and including the one that completed a stop string."""

    sequence_id: int
    token_ids: list[int]
    logprobs: list[float]
    """Natural logarithm of each sampled token's probability under the distribution it was drawn from."""
    finish: Literal["stop", "eos", "length"]


class Engine(Protocol):
    """Requests join and leave at any time; a sequence keeps its cache between turns until released."""

    def add_request(self, request: TurnRequest) -> None:
        """Queue a turn."""

    def step(self) -> list[TurnOutput]:
        """Advance every running turn by one token and return the turns that ended."""

    def has_unfinished(self) -> bool:
        """Return whether a step would advance any turn; turns that wait for others to be released do not count."""

    def release(self, sequence_id: int) -> None:
        """Forget a sequence and free its cache."""

    def reset_cache(self) -> None:
        """Forget every sequence; mandatory after the weights changed."""

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token but the first under the current weights, at temperature 1."""


class TrainedEngine(Engine, Protocol):
    """An engine whose weights a trainer changes."""

    def publish(self, named_tensors: "Iterable[tuple[str, torch.Tensor]]") -> None:
        """Take the trainer's weights, one at a time, and forget everything computed with the former ones."""

    def sleep(self) -> None:
        """Give memory back until the next `publish`, where the engine is set up to; it takes no turns meanwhile."""

    def close(self) -> None:
        """End the engine; the process groups of torch may end with it."""
