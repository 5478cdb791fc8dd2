"""How the questions are cut into chunks and dealt out to ranks.

A chunk is one rollout: the questions that share the engine's batches. It never depends on the number of ranks, so
that every question meets the same batches, and gets the same answer to the last bit, however many ranks there are.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.contracts.errors import ConfigError
from components.evaluate.config import Method


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `world` processes that share the work."""

    number: int = 0
    world: int = 1


def launched_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return which rank of a launcher (`torchrun`) this process is; the only one without a launcher.

    Raises:
        ConfigError: `RANK` and `WORLD_SIZE` do not fit together.
    """
    given = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not all(text.isdecimal() for text in given) or int(given[0]) >= int(given[1]):
        raise ConfigError(f"RANK={given[0]} of WORLD_SIZE={given[1]}", "0 <= RANK < WORLD_SIZE", "start with torchrun")
    return Rank(int(given[0]), int(given[1]))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Questions `[start, stop)` asked by one method in one rollout."""

    method: Method
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The chunk in the names of its files."""
        return f"chunk-{self.number:06d}"


def cut(method: Method, num_questions: int, max_questions: int) -> list[Chunk]:
    """Return the chunks of a method, as few as `max_questions` allows and of equal size to one question."""
    count = -(-num_questions // max_questions)
    edges = [number * num_questions // count for number in range(count + 1)]
    return [Chunk(method, number, edges[number], edges[number + 1]) for number in range(count)]


def share_of(rank: Rank, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks of `rank`: dealt out in turn, so that the shares of all ranks differ by one chunk at most."""
    return list(chunks[rank.number :: rank.world])
