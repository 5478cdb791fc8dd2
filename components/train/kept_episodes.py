"""The right episodes of rejection sampling, kept in the work storage while the base model is still itself.

One JSONL object per rollout step, written whole: a killed run repeats at most one rollout step. Token ids and
positions only; nothing is decoded and encoded again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict

from components.storage import Storage
from components.train.packing import EpisodeTokens
from components.train.prompts import nth

FOLDER = "kept_episodes"


class KeptEpisodes:
    """Episodes by the rollout step that sampled them."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def has(self, rollout_step: int) -> bool:
        """Return whether `rollout_step` was sampled to its end."""
        return self._storage.exists(_key(rollout_step))

    def save(self, rollout_step: int, episodes: Sequence[EpisodeTokens]) -> None:
        """Store the right episodes of `rollout_step`, which may be none."""
        lines = "".join(f"{json.dumps(asdict(episode))}\n" for episode in episodes)
        self._storage.put_bytes(lines.encode(), _key(rollout_step))

    def load(self, rollout_steps: int) -> list[EpisodeTokens]:
        """Return the episodes of the first `rollout_steps`, in the order they were asked.

        Raises:
            MissingError: one of the rollout steps is not stored.
        """
        texts = (self._storage.get_bytes(_key(number)).decode() for number in range(rollout_steps))
        return [EpisodeTokens(**json.loads(line)) for text in texts for line in text.splitlines()]


def episodes_of_step(kept: Sequence[EpisodeTokens], count: int, step: int, seed: int) -> list[EpisodeTokens]:
    """Return `count` episodes for `step`, at most all of them: seeded, in a new order every epoch."""
    count = min(count, len(kept))
    return [nth(kept, "kept episodes", step * count + i, seed) for i in range(count)]


def _key(rollout_step: int) -> str:
    return f"{FOLDER}/{rollout_step:06d}.jsonl"
