"""Which questions a step asks: a pure function of the seed and the step, so that resuming needs no cursor file."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from components.contracts.errors import ConfigError
from components.contracts.question import Question
from components.train.config import TrainConfig

Item = TypeVar("Item")


def questions_of_step(by_set: Mapping[str, Sequence[Question]], config: TrainConfig, step: int) -> list[Question]:
    """Return the questions of `step`, each repeated `episodes_per_question` times in a row.

    Every set is walked in a seeded order that is new in each epoch; sets share a step as `set_shares` says.

    Raises:
        ConfigError: a set named in `set_shares` has no training questions.
    """
    chosen = []
    for name, count in counts_per_set(config).items():
        if not by_set.get(name):
            raise ConfigError(
                f"train.set_shares names {name!r}, which has no training questions", ", ".join(sorted(by_set))
            )
        chosen += [nth(by_set[name], name, step * count + i, config.seed) for i in range(count)]
    return [question for question in chosen for _ in range(config.episodes_per_question)]


def counts_per_set(config: TrainConfig) -> dict[str, int]:
    """Return how many questions of each set a step asks; they add up to `questions_per_step`."""
    total = sum(config.set_shares.values())
    counts = {name: int(config.questions_per_step * share / total) for name, share in config.set_shares.items()}
    first = next(iter(counts))
    counts[first] += config.questions_per_step - sum(counts.values())
    return {name: count for name, count in counts.items() if count}


def episode_seed(seed: int, step: int, index: int) -> int:
    """Return 63 bits that differ for every episode of a run."""
    digest = hashlib.sha256(f"{seed} {step} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def nth(items: Sequence[Item], name: str, position: int, seed: int) -> Item:
    """Return the item at `position` of an endless walk over `items`, in a seeded order that is new in each epoch."""
    epoch, offset = divmod(position, len(items))
    return items[_order(len(items), f"{seed} {name} {epoch}")[offset]]


@lru_cache(maxsize=16)
def _order(size: int, key: str) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(key).shuffle(order)
    return tuple(order)
