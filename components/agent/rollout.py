"""Drives many episodes over one engine: whoever is ready continues, searches run beside the model."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

from components.agent.config import LoopConfig
from components.agent.engines.protocol import Engine
from components.agent.episode_loop import EpisodeLoop, EpisodeTask
from components.agent.prompt import Tokenizer
from components.contracts.episode import Episode
from components.contracts.errors import SearchError
from components.contracts.passage import ScoredPassage
from components.search.protocol import SearchClient

_NOT_TIMED = nullcontext()


class RolloutCancelled(Exception):
    """Whoever asked for a rollout no longer wants it; the engine still holds turns of it, until it is reset."""


class _Searches:
    """Searches on their way, in the order they were asked."""

    def __init__(self, client: SearchClient) -> None:
        self._client = client
        self._pending: dict[Future[list[ScoredPassage]], tuple[EpisodeLoop, str, float]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def ask(self, loop: EpisodeLoop, query: str) -> None:
        # A cached query may share its future with another episode: a future of our own keeps them apart.
        future: Future[list[ScoredPassage]] = Future()
        self._pending[future] = (loop, query, time.monotonic())
        self._client.submit(query).add_done_callback(lambda found: _copy_outcome(found, future))

    def collect(self, *, everything: bool, block: bool) -> list[EpisodeLoop]:
        """Hand finished searches to their episodes and return these, in the order asked."""
        if everything:
            wait(self._pending)
        elif block:
            wait(self._pending, return_when=FIRST_COMPLETED)
        answered = [future for future in self._pending if future.done()]
        return [self._deliver(future) for future in answered]

    def _deliver(self, future: Future[list[ScoredPassage]]) -> EpisodeLoop:
        loop, query, asked_s = self._pending.pop(future)
        latency_s = time.monotonic() - asked_s
        try:
            loop.observe(query, future.result(), latency_s)
        except SearchError as error:
            loop.fail_search(query, str(error), latency_s)
        return loop


def rollout(
    engine: Engine,
    client: SearchClient,
    tasks: Iterable[EpisodeTask],
    loop: LoopConfig,
    tokenizer: Tokenizer,
    *,
    max_under_way: int | None = None,
    reproducible: bool = True,
    on_finished: Callable[[Episode], None] | None = None,
    engine_time: AbstractContextManager[object] = _NOT_TIMED,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[Episode]:
    """Return one finished episode per task, in task order.

    A failed search never looks like an empty result: its episode ends with `StopReason.SEARCH_FAILED`.
    `reproducible` waits for the searches of a step before the next one, so that the make-up of batches,
    and with it the last bits of every number, does not depend on timing; switch it off when searches are slow.
    `tasks` are all begun at once, or, with `max_under_way`, taken one by one as earlier episodes end: then they may
    come from an iterator that others take from too. Every step of the engine is made within `engine_time`.

    Raises:
        RolloutCancelled: `is_cancelled`, which is asked before every step of the engine, said so.
    """
    episodes: list[EpisodeLoop] = []
    searches, untaken, num_done = _Searches(client), iter(tasks), 0

    def begin() -> None:
        room = None if max_under_way is None else max_under_way - (len(episodes) - num_done)
        for task in islice(untaken, room):
            episodes.append(EpisodeLoop(len(episodes), task, loop, tokenizer))
            engine.add_request(episodes[-1].next_turn())

    def proceed(episode: EpisodeLoop) -> None:
        nonlocal num_done
        if not episode.done:
            engine.add_request(episode.next_turn())
            return
        engine.release(episode.sequence_id)
        num_done += 1
        if on_finished:
            on_finished(episode.episode)

    begin()
    while engine.has_unfinished() or len(searches):
        if is_cancelled():
            raise RolloutCancelled
        with engine_time:
            outputs = engine.step()
        for output in outputs:
            episode = episodes[output.sequence_id]
            if query := episode.end_turn(output):
                searches.ask(episode, query)
            else:
                proceed(episode)
        for episode in searches.collect(everything=reproducible, block=not engine.has_unfinished()):
            proceed(episode)
        begin()
    assert all(episode.done for episode in episodes), "the engine lost a turn"
    return [episode.episode for episode in episodes]


def _copy_outcome(source: Future, target: Future) -> None:
    error = source.exception()
    if error is None:
        target.set_result(source.result())
    else:
        target.set_exception(error)
