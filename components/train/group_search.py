"""Searches of ranks that share a vLLM engine: the first rank of a group asks, the others are told what it got.

Such ranks schedule for themselves and meet in every collective of the model, so all of them need the same requests in
the same order. Two searches for one query may differ: one fails or is late, a score has another last digit. Here there
is one search, and its outcome, passages or error, is what every rank of the group has. Each asks for the same queries
in the same order, and must wait for all of them before its engine's next step (`reproducible` of `rollout`).
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import count
from typing import Protocol

import torch.distributed as dist

from components.contracts.errors import EngineError, SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import SearchStats
from components.search.protocol import SearchClient
from components.train.config import TrainConfig
from components.train.ranks import rank, shared_store

GRACE_S = 120.0
"""How long after its deadline a search of the first rank may reach the others: that of an index in this process is
constant, and steps do not begin together."""


class CountedSearch(SearchClient, Protocol):
    """A client that knows what it did."""

    @property
    def stats(self) -> SearchStats:
        """Totals of the searches that this rank made."""
        ...


class LeaderSearch:
    """Asks `client`, and tells every outcome to `followers` through `store` before anybody here hears of it."""

    def __init__(self, client: CountedSearch, store: dist.Store, followers: Sequence[int]) -> None:
        self._client, self._store, self._followers = client, store, followers
        self._numbers = count()

    @property
    def stats(self) -> SearchStats:
        """Totals of the group's searches."""
        return self._client.stats

    def submit(self, query: str) -> Future[list[ScoredPassage]]:
        """Return a future with the passages for `query`.

        It raises EngineError where the outcome could not be told: the other ranks then have none.
        """
        number, told = next(self._numbers), Future()

        def tell(found: Future[list[ScoredPassage]]) -> None:
            error = found.exception()
            try:
                if error is None or isinstance(error, SearchError):
                    self._tell(number, _written(query, found))
            except dist.DistError as lost:
                error = EngineError(f"the outcome of search {number} did not reach the ranks of the engine: {lost}")
            if error is None:
                told.set_result(found.result())
            else:
                told.set_exception(error)

        self._client.submit(query).add_done_callback(tell)
        return told

    def _tell(self, number: int, outcome: str) -> None:
        for follower in self._followers:
            self._store.set(_key(number, follower), outcome)


class FollowerSearch:
    """Asks nobody: each outcome is the one that rank `leader` got for the query of the same number."""

    def __init__(self, store: dist.Store, leader: int, own: int, patience_s: float) -> None:
        self._store, self._leader, self._own, self._patience_s = store, leader, own, patience_s
        self._numbers = count()
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, "search-follower")

    @property
    def stats(self) -> SearchStats:
        """Zeros: the first rank of the group counts its searches."""
        return SearchStats()

    def submit(self, query: str) -> Future[list[ScoredPassage]]:
        """Return a future with the passages that the leader got for `query`.

        It raises SearchError when the leader's search failed, and EngineError, which no episode survives, when the
        leader tells nothing in time or searched for something else.
        """
        return self._thread.submit(self._outcome, next(self._numbers), query, time.monotonic() + self._patience_s)

    def close(self) -> None:
        """Wait for no outcome any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, number: int, query: str, deadline_s: float) -> list[ScoredPassage]:
        key = _key(number, self._own)
        try:
            self._store.wait([key], timedelta(seconds=max(0.001, deadline_s - time.monotonic())))
            outcome = json.loads(self._store.get(key))
            self._store.delete_key(key)
        except dist.DistError as lost:
            raise EngineError(
                f"rank {self._leader}, which searches for all ranks of this engine, told rank {self._own} no outcome "
                f"of search {number} within {self._patience_s:g} s: {str(lost).splitlines()[0]}"
            ) from lost
        if outcome["query"] != query:
            raise EngineError(
                f"rank {self._own} searches for {query!r} where rank {self._leader} searched for {outcome['query']!r}: "
                "the ranks of this engine do not sample the same tokens any more"
            )
        if "error" in outcome:
            raise SearchError(outcome["error"])
        return [ScoredPassage(Passage(**found["passage"]), found["score"]) for found in outcome["passages"]]


@contextmanager
def group_search(
    config: TrainConfig, open_client: Callable[[], AbstractContextManager[CountedSearch]]
) -> Iterator[CountedSearch]:
    """Hold the client of this rank; a collective. `open_client` is called where this rank is one that asks."""
    if config.ranks_per_engine == 1:
        with open_client() as client:
            yield client
        return
    leader = rank() - rank() % config.ranks_per_engine
    group = range(leader, leader + config.ranks_per_engine)
    # A group lies within a node.
    store = shared_store("127.0.0.1", group)
    if rank() == leader:
        with open_client() as client:
            yield LeaderSearch(client, store, group[1:])
        return
    follower = FollowerSearch(store, leader, rank(), config.search.deadline_s + GRACE_S)
    try:
        yield follower
    finally:
        follower.close()


def _key(number: int, follower: int) -> str:
    return f"search {number} for rank {follower}"


def _written(query: str, found: Future[list[ScoredPassage]]) -> str:
    """Return the outcome as JSON: floats come back as they were, and text stays text."""
    error = found.exception()
    if error is None:
        return json.dumps({"query": query, "passages": [asdict(passage) for passage in found.result()]})
    return json.dumps({"query": query, "error": getattr(error, "message", str(error))})
