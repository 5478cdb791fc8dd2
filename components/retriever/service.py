"""The index behind the service: opened beside it, proven by a query, asked in batches, never by too many at once."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from components.contracts.errors import BoundaryError, SearchError
from components.contracts.manifest import Manifest
from components.contracts.passage import ScoredPassage
from components.retriever.config import RetrieverConfig
from components.retriever.metrics import Reading, RetrieverMetrics
from components.search.concurrent import ConcurrentSearch
from components.search.protocol import Searcher

SIZES = (1, 3, 5, 10, 20, 50, 100)
"""Passages the engine is asked for: the smallest of these that is enough, so that few clients keep their own cache."""
_CONCURRENT_BATCHES = 2
"""While the results of one batch are copied out of Java, Java works on the next."""
_PROOF_TOP_K = 10


class Overloaded(BoundaryError):
    """Too many queries are under way, or the index is not open yet; the same request may succeed later."""

    boundary = "retriever"


class RetrieverService:
    """Answers queries from one index.

    Args:
        config: Limits and batching.
        read_manifest: Returns the manifest of the index; called in a thread of its own.
        open_index: Returns the searcher over the index of a manifest; called in the same thread.
        on_failure: Called from that thread when the index cannot be opened; `failure` then says why.
    """

    def __init__(
        self,
        config: RetrieverConfig,
        read_manifest: Callable[[], Manifest],
        open_index: Callable[[Manifest], Searcher],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._read_manifest, self._open_index = config, read_manifest, open_index
        self._on_failure = on_failure
        self.metrics = RetrieverMetrics()
        self.state = "reading the manifest"
        self.failure: Exception | None = None
        self._manifest: Manifest | None = None
        self._searcher: Searcher | None = None
        self._clients: dict[int, ConcurrentSearch] = {}
        self._engines: list[_Measured] = []
        self._num_waiting = 0

    @property
    def digest(self) -> str | None:
        """Content digest of the index; none until its manifest is read."""
        return self._manifest.digest if self._manifest else None

    @property
    def is_ready(self) -> bool:
        """Whether the index is open and has answered a query."""
        return self._searcher is not None

    @property
    def is_healthy(self) -> bool:
        """Whether the engine gives batches back."""
        return all(engine.longest_s() < self._config.stuck_after_s for engine in self._engines)

    def start(self) -> None:
        """Begin to open the index in a thread, so that the service can say meanwhile that it is alive."""
        threading.Thread(target=self._open, name="open-index", daemon=True).start()

    async def retrieve(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Return a list of at most `top_k` passages for each query.

        Raises:
            Overloaded: the index is not open yet, or too many queries are under way.
            SearchError: the engine failed, or gave no answer before the deadline.
        """
        if self._searcher is None:
            raise Overloaded(f"not ready: {self.state}")
        if self._num_waiting + len(queries) > self._config.max_waiting_queries:
            raise Overloaded(
                f"{self._num_waiting} queries are under way, {self._config.max_waiting_queries} are allowed"
            )
        self.metrics.queries.add(len(queries))
        client = self._client(top_k)
        self._num_waiting += len(queries)
        try:
            futures = [client.submit(query) for query in queries]
            # All are waited for, failed ones too: nobody else would collect their errors.
            found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        finally:
            self._num_waiting -= len(queries)
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return [result[:top_k] for result in found]

    def close(self) -> None:
        """End the threads; queries that are still open fail."""
        self._searcher = None
        for client in self._clients.values():
            client.close()

    def metrics_text(self) -> str:
        """Return everything counted so far, for Prometheus."""
        stats = [client.stats for client in self._clients.values()]
        remembered = sum(entry.cache_hits + entry.joined for entry in stats)
        readings = [
            Reading("ready", "gauge", "Whether the index is open and answered a query.", float(self.is_ready)),
            Reading("waiting_queries", "gauge", "Queries under way.", self._num_waiting),
            Reading("remembered_queries_total", "counter", "Queries that needed no search of their own.", remembered),
        ]
        if self._manifest:
            labels = {
                "digest": self._manifest.digest,
                "kind": str(self._manifest.metadata.get("index_kind", "unknown")),
            }
            passages = self._manifest.counts.get("passages", 0)
            readings += [
                Reading("index_info", "gauge", "The index that is served.", 1, labels),
                Reading("index_passages", "gauge", "Passages in the index.", passages),
            ]
        return self.metrics.text(readings)

    def _client(self, top_k: int) -> ConcurrentSearch:
        size = next((size for size in SIZES if top_k <= size <= self._config.max_top_k), self._config.max_top_k)
        if size not in self._clients:
            assert self._searcher is not None
            engine = _Measured(self._searcher, self.metrics)
            self._engines.append(engine)
            self._clients[size] = ConcurrentSearch(
                engine,
                size,
                window_s=self._config.window_s,
                max_batch=self._config.max_batch,
                deadline_s=self._config.deadline_s,
                # Whoever asks repeats a failed request; doing it here as well would multiply the two.
                retries=0,
                cache_size=self._config.cached_queries,
                max_concurrent=_CONCURRENT_BATCHES,
            )
        return self._clients[size]

    def _open(self) -> None:
        started_s = time.monotonic()
        try:
            manifest = self._read_manifest()
            self._manifest = manifest
            self.state = "fetching and opening the index"
            print(f"opening the index {manifest.digest} at {manifest.uri}", flush=True)
            searcher = self._open_index(manifest)
            self.state = "asking the index a first query"
            prove(searcher, manifest)
        except Exception as error:
            self.state = f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            self.failure = error
            self._on_failure()
            return
        self._searcher, self.state = searcher, "ready"
        passages = manifest.counts.get("passages", 0)
        print(f"ready after {time.monotonic() - started_s:.1f} s: {passages:,.0f} passages", flush=True)


def prove(searcher: Searcher, manifest: Manifest) -> None:
    """Ask the index a query whose answer its manifest records.

    Raises:
        SearchError: the passage is not found any more, or the engine fails.
    """
    recorded: list[dict[str, Any]] = manifest.metadata.get("golden_queries", [])
    golden = next((entry for entry in recorded if entry["rank"] > 0), None)
    if golden is None:
        searcher.search(["index"], 1)
        return
    top_k = max(_PROOF_TOP_K, golden["rank"])
    hits = searcher.search([golden["query"]], top_k)[0]
    if golden["passage_id"] not in {hit.passage.id for hit in hits}:
        raise SearchError(
            f"the index {manifest.digest} does not find passage {golden['passage_id']!r} among {top_k} hits for "
            f"{golden['query']!r}, as it did when it was built"
        )


class _Measured:
    def __init__(self, searcher: Searcher, metrics: RetrieverMetrics) -> None:
        self._searcher, self._metrics = searcher, metrics
        self._under_way: dict[int, float] = {}
        """Thread -> when its batch went to the engine."""

    def longest_s(self) -> float:
        """Return how long the oldest batch has been in the engine; 0.0 when there is none."""
        return time.monotonic() - min(self._under_way.copy().values(), default=time.monotonic())

    @property
    def digest(self) -> str:
        return self._searcher.digest

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        started_s = self._under_way[threading.get_ident()] = time.monotonic()
        try:
            return self._searcher.search(queries, top_k)
        finally:
            del self._under_way[threading.get_ident()]
            self._metrics.batch_queries.observe(len(queries))
            self._metrics.search_seconds.observe(time.monotonic() - started_s)
