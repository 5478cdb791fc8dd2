"""Turns a synchronous `Searcher` into a `SearchClient` for thousands of queries a second.

Queries that arrive within a short window travel as one batch; several batches are under way at once; equal
queries share one search; finished ones come from a least-recently-used cache as completed futures. Every
query is settled before its deadline, with passages or with SearchError. While the process itself is halted (Ctrl-Z, a
paused container, a virtual machine on its way to another host) no deadline comes nearer.
"""

import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Self

from components.contracts.errors import SearchError
from components.contracts.passage import ScoredPassage
from components.search.protocol import Searcher

Found = Future[list[ScoredPassage]]
FIRST_BACK_OFF_S = 0.05
LONGEST_BACK_OFF_S = 2.0
BEATS_PER_DEADLINE = 30
"""A query ages by beats that the dispatcher has lived through: a halt, however long, is one of them."""


@dataclass(slots=True)
class SearchStats:
    """Totals since the client was made."""

    submitted: int = 0
    cache_hits: int = 0
    joined: int = 0
    """Queries that met an equal one under way and share its search."""
    sent: int = 0
    """Queries that reached the searcher, retries not counted."""
    batches: int = 0
    retries: int = 0
    """Calls of the searcher that repeated a failed one."""
    failed: int = 0
    """Queries settled with SearchError, expired ones included."""
    expired: int = 0
    """Queries that met their deadline."""
    search_s: float = 0.0
    """Time inside the searcher, summed over batches that overlap."""

    @property
    def cache_hit_frac(self) -> float:
        """Share of submitted queries that needed no search of their own; 0.0 before the first."""
        return (self.cache_hits + self.joined) / self.submitted if self.submitted else 0.0


@dataclass(slots=True)
class _Query:
    text: str
    future: Found
    submitted_s: float
    submitted_beat: int
    claimed: bool = False
    """One thread has taken it upon itself to settle the future."""


class ConcurrentSearch:
    """A `SearchClient` over `searcher`; close it, or use it in a `with` statement.

    Args:
        searcher: What answers a batch.
        top_k: Passages asked for per query.
        window_s: How long the first query of a batch waits for company.
        max_batch: Largest number of queries in one call.
        deadline_s: Longest time between `submit` and a settled future, halts of the process not counted.
        retries: How often a batch that raised SearchError is sent again, with back-off. Afterwards the
            batch is halved until the queries that fail on their own are alone.
        cache_size: Queries whose passages are remembered; 0 remembers none.
        max_concurrent: Batches under way at the same time; more wait and travel together.
    """

    def __init__(
        self,
        searcher: Searcher,
        top_k: int,
        *,
        window_s: float = 0.003,
        max_batch: int = 256,
        deadline_s: float = 30.0,
        retries: int = 3,
        cache_size: int = 65536,
        max_concurrent: int = 16,
    ) -> None:
        if min(top_k, max_batch, max_concurrent) < 1 or min(window_s, retries, cache_size) < 0 or deadline_s <= 0:
            raise ValueError("top_k, max_batch, max_concurrent and deadline_s are positive, the others at least 0")
        self._searcher, self._top_k = searcher, top_k
        self._window_s, self._max_batch = window_s, max_batch
        self._deadline_s, self._retries = deadline_s, retries
        self._beats, self._next_beat_s = 0, 0.0
        self._cache_size, self._max_concurrent = cache_size, max_concurrent
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[_Query] = deque()
        self._under_way: OrderedDict[str, _Query] = OrderedDict()
        self._cache: OrderedDict[str, Found] = OrderedDict()
        self._batches: SimpleQueue[list[_Query] | None] = SimpleQueue()
        self._num_busy = self._num_workers = 0
        self._stats = SearchStats()
        self._closed = threading.Event()
        # Daemons: a search that hangs must not keep the process from ending.
        self._dispatcher = threading.Thread(target=self._dispatch, name="search-dispatcher", daemon=True)
        self._dispatcher.start()

    @property
    def stats(self) -> SearchStats:
        """A consistent copy of the totals."""
        with self._changed:
            return replace(self._stats)

    def submit(self, query: str) -> Found:
        """Return a future with the passages for `query` (see `SearchClient`); completed already on a cache hit.

        Raises:
            SearchError: the client is closed.
        """
        text = " ".join(query.split())
        with self._changed:
            self._stats.submitted += 1
            if (cached := self._cache.get(text)) is not None:
                self._cache.move_to_end(text)
                self._stats.cache_hits += 1
                return cached
            if (equal := self._under_way.get(text)) is not None:
                self._stats.joined += 1
                return equal.future
            if self._closed.is_set():
                raise SearchError("the search client is closed")
            future: Found = Future()
            # A running future cannot be cancelled by one of the callers that share it.
            future.set_running_or_notify_cancel()
            entry = _Query(text, future, time.monotonic(), self._beats)
            self._under_way[text] = entry
            self._waiting.append(entry)
            if len(self._waiting) in (1, self._max_batch):
                self._changed.notify()
            return future

    def close(self) -> None:
        """Settle every open query with SearchError and end the threads; a second call does nothing."""
        with self._changed:
            if self._closed.is_set():
                return
            self._closed.set()
            open_queries = list(self._under_way.values())
            num_workers = self._num_workers
            self._waiting.clear()
            self._changed.notify()
        self._fail(open_queries, SearchError("the search client was closed before an answer came"))
        for _ in range(num_workers):
            self._batches.put(None)
        if threading.current_thread() is not self._dispatcher:
            self._dispatcher.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dispatch(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._count_beat()
                expired = self._take_expired()
                batch = self._take_batch()
                if not expired and not batch:
                    self._changed.wait(self._pause_s())
                    continue
            if expired:
                num_expired = self._fail(expired, SearchError(f"no answer within {self._deadline_s} s"))
                with self._changed:
                    self._stats.expired += num_expired
            if batch:
                self._batches.put(batch)

    def _count_beat(self) -> None:
        if (now_s := time.monotonic()) >= self._next_beat_s:
            self._beats += 1
            self._next_beat_s = now_s + self._deadline_s / BEATS_PER_DEADLINE

    def _take_expired(self) -> list[_Query]:
        oldest = self._beats - BEATS_PER_DEADLINE
        expired = []
        for query in self._under_way.values():
            if query.submitted_beat > oldest:
                break
            if not query.claimed:
                expired.append(query)
        while self._waiting and self._waiting[0].submitted_beat <= oldest:
            self._waiting.popleft()
        return expired

    def _take_batch(self) -> list[_Query]:
        if not self._waiting or self._num_busy == self._max_concurrent:
            return []
        window_open = time.monotonic() < self._waiting[0].submitted_s + self._window_s
        if window_open and len(self._waiting) < self._max_batch:
            return []
        if self._num_busy == self._num_workers:
            self._num_workers += 1
            threading.Thread(target=self._work, name=f"search-{self._num_workers}", daemon=True).start()
        self._num_busy += 1
        batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        self._stats.batches += 1
        self._stats.sent += len(batch)
        return batch

    def _pause_s(self) -> float | None:
        """Time until a window closes or a beat is due; None when only a new event can change anything."""
        if not self._under_way:
            return None
        wake_s = self._next_beat_s
        if self._waiting and self._num_busy < self._max_concurrent:
            wake_s = min(wake_s, self._waiting[0].submitted_s + self._window_s)
        return max(0.0, wake_s - time.monotonic())

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._answer(batch, self._retries)
            finally:
                with self._changed:
                    self._num_busy -= 1
                    if self._waiting:
                        self._changed.notify()

    def _answer(self, batch: list[_Query], retries: int) -> None:
        for attempt in range(retries + 1):
            batch = [query for query in batch if not query.claimed]
            if not batch:
                return
            try:
                self._succeed(batch, self._search([query.text for query in batch]))
                return
            except SearchError as error:
                failure = error
            if attempt < retries:
                back_off_s = min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2**attempt) * random.uniform(0.5, 1.0)
                self._closed.wait(back_off_s)
                with self._changed:
                    self._stats.retries += 1
        if len(batch) == 1:
            self._fail(batch, failure)
            return
        middle = len(batch) // 2
        self._answer(batch[:middle], 0)
        self._answer(batch[middle:], 0)

    def _search(self, texts: Sequence[str]) -> list[list[ScoredPassage]]:
        started_s = time.monotonic()
        try:
            results = self._searcher.search(texts, self._top_k)
        except SearchError:
            raise
        except Exception as error:
            raise SearchError(f"the searcher raised {type(error).__name__}: {error}") from error
        finally:
            with self._changed:
                self._stats.search_s += time.monotonic() - started_s
        if len(results) != len(texts):
            raise SearchError(f"the searcher gave {len(results)} lists for {len(texts)} queries")
        return results

    def _succeed(self, batch: list[_Query], results: list[list[ScoredPassage]]) -> None:
        passages = {query.text: found for query, found in zip(batch, results, strict=True)}
        claimed = self._claim(batch)
        # Callbacks run here, outside the lock, and before the cache hands the future out as completed.
        for query in claimed:
            query.future.set_result(passages[query.text])
        with self._changed:
            for query in claimed:
                del self._under_way[query.text]
                if self._cache_size:
                    self._cache[query.text] = query.future
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)

    def _fail(self, batch: list[_Query], error: SearchError) -> int:
        claimed = self._claim(batch)
        with self._changed:
            self._stats.failed += len(claimed)
            for query in claimed:
                del self._under_way[query.text]
        for query in claimed:
            own = SearchError(error.message)
            own.__cause__ = error.__cause__
            query.future.set_exception(own)
        return len(claimed)

    def _claim(self, batch: list[_Query]) -> list[_Query]:
        with self._changed:
            claimed = [query for query in batch if not query.claimed]
            for query in claimed:
                query.claimed = True
        return claimed
