"""Which rank plays which tasks of a rollout, and how the episodes come home in task order.

`fixed` deals the tasks in turns; ranks that share a model (vLLM's tensor parallelism) play the same ones together.
`stealing` lets each rank take the next one from a counter that all of them share whenever it has room, so that a rank
with long episodes plays fewer.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

import torch.distributed as dist

from components.agent.episode_loop import EpisodeTask
from components.contracts.episode import Episode
from components.contracts.errors import EngineError
from components.train.config import TrainConfig
from components.train.ranks import in_turns, rank, shared_store, world_size

LOOKAHEAD_FRAC = 0.75
"""Of its fair share, what a rank may have under way: what all of them begin with at once leaves nothing to steal."""


class Hand:
    """This rank's tasks of one rollout, handed out one by one; remembers which it handed out."""

    def __init__(self, tasks: Sequence[EpisodeTask], numbers: Iterable[int], max_under_way: int | None) -> None:
        self._tasks, self._numbers = tasks, numbers
        self.num_tasks = len(tasks)
        """Of the whole rollout."""
        self.max_under_way = max_under_way
        """Episodes this rank may play at a time; None is all of them."""
        self.taken: list[int] = []
        """Places in the rollout of the tasks handed out, in that order."""

    def __iter__(self) -> Iterator[EpisodeTask]:
        for number in self._numbers:
            self.taken.append(number)
            yield self._tasks[number]


class TaskSharing:
    """Deals the tasks of one rollout after the other; building it and `gather` are collectives, nothing else is.

    So a hand may be played in a thread while the main thread talks to the other ranks.
    """

    def __init__(self, config: TrainConfig) -> None:
        is_shared = config.parallel.share_rollouts == "stealing" and world_size() > 1
        self._counter = shared_store(os.environ["MASTER_ADDR"], range(world_size())) if is_shared else None
        self._num_slots, self._num_deals = config.num_slots, 0
        self._ranks_per_engine = config.ranks_per_engine

    def deal(self, tasks: Sequence[EpisodeTask]) -> Hand:
        """Return this rank's hand; every rank must deal the same rollouts in the same order."""
        if self._counter is None:
            engine, num_engines = rank() // self._ranks_per_engine, world_size() // self._ranks_per_engine
            return Hand(tasks, range(engine, len(tasks), num_engines), None)
        self._num_deals += 1
        fair_share = -(-len(tasks) // world_size())
        lookahead = max(1, min(self._num_slots, int(LOOKAHEAD_FRAC * fair_share)))
        return Hand(tasks, _claimed(self._counter, f"rollout {self._num_deals}", len(tasks)), lookahead)

    def gather(self, hand: Hand, episodes: Sequence[Episode]) -> list[Episode]:
        """Return the episodes of all ranks in task order; `episodes` are those of `hand`, in the order handed out.

        Of ranks that play together the first one's count: their clocks differ.

        Raises:
            EngineError: the tokens of such ranks differ.
        """
        numbered = in_turns(list(zip(hand.taken, episodes, strict=True)))
        by_number: dict[int, Episode] = {}
        for number, episode in numbered:
            if by_number.setdefault(number, episode).token_ids != episode.token_ids:
                raise EngineError(f"ranks of one engine differ in episode {number}, question {episode.question_id}")
        assert len(numbered) == hand.num_tasks * self._ranks_per_engine, "a task was lost or played twice"
        return [by_number[number] for number in range(hand.num_tasks)]


def _claimed(counter: dist.Store, key: str, count: int) -> Iterator[int]:
    """Yield numbers below `count` that no other rank gets."""
    while (number := counter.add(key, 1) - 1) < count:
        yield number
