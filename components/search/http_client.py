"""Asks a retriever service over HTTP: ours, or one that speaks as Search-R1's does.

`POST /retrieve {"queries", "topk", "return_scores"}` is answered by a list of `{"document": {"id", "contents"},
"score"}` for each query. Ours adds the digest of its index to every answer. Whatever comes back is taken for hostile:
its size is bounded, its shape checked. Repeating a failed request is the caller's business (`ConcurrentSearch`).
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import urllib3

from components.contracts.errors import ConfigError, SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.protocol import plain_query

DIGEST_HEADER = "X-Index-Digest"
DIGEST_KEY = "index_digest"
QUERIES_PER_REQUEST = 256
"""More are asked in several requests."""
_BYTES_PER_PASSAGE = 1 << 20
_MOST_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 16
_CONNECTIONS = 32
_ASK_AGAIN_S = 1.0
_SAY_EVERY_S = 30.0


class HttpSearcher:
    """A `Searcher` over the service at `urls`, all of which serve the same index and are asked in turn.

    Args:
        urls: Addresses without a path.
        expected_digest: Content digest of the index that must answer; empty takes whatever the service names.
        accept_unnamed: Believe a service that names no digest at all.
        timeout_s: Longest wait for the answer to one request.
    """

    def __init__(
        self, urls: Sequence[str], expected_digest: str = "", *, accept_unnamed: bool = False, timeout_s: float = 10.0
    ) -> None:
        if not urls:
            raise ValueError("at least one address is needed")
        self._urls, self._turns = tuple(urls), itertools.cycle(urls)
        self._digest, self._accept_unnamed, self._timeout_s = expected_digest, accept_unnamed, timeout_s
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS, timeout=urllib3.Timeout(connect=min(5.0, timeout_s), read=timeout_s), retries=False
        )

    @property
    def digest(self) -> str:
        """Content digest of the index that answers: the expected one, else the one the service names.

        Raises:
            SearchError: the service cannot be reached, is not ready, or names none.
        """
        if not self._digest:
            url = next(self._turns)
            status, header, data = self._exchange("GET", f"{url}/readyz", None, _CHUNK_BYTES)
            named = self._named_digest(header, _json(data, url)) if status == 200 else ""
            if not named:
                raise SearchError(f"{url} does not say which index it serves (status {status})")
            self._digest = named
        return self._digest

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """See `Searcher`.

        Raises:
            SearchError: no answer in time, an error status, an answer that is not what was asked for, or one from
                another index.
        """
        found: list[list[ScoredPassage]] = []
        for batch in _batches(queries):
            found += self._retrieve(next(self._turns), batch, top_k)
        return found

    def wait_until_ready(self, timeout_s: float, say: Callable[[str], None]) -> None:
        """Return when a service is ready, telling `say` now and then what it waits for.

        Raises:
            ConfigError: a service serves another index, or does not say which.
            SearchError: none is ready in time.
        """
        started_s = said_s = time.monotonic()
        while True:
            states = {url: self._readiness(url) for url in self._urls}
            if not all(states.values()):
                return
            waited_s = time.monotonic() - started_s
            state = "; ".join(f"{url} {state}" for url, state in states.items())
            if waited_s >= timeout_s:
                raise SearchError(f"no retriever was ready within {timeout_s:.0f} s: {state}")
            if time.monotonic() - said_s >= _SAY_EVERY_S or waited_s < _ASK_AGAIN_S:
                said_s = time.monotonic()
                say(f"waiting for a retriever ({waited_s:.0f} s): {state}")
            time.sleep(min(_ASK_AGAIN_S, timeout_s))

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _readiness(self, url: str) -> str:
        """Return why the service at `url` cannot be asked yet, or an empty string when it can."""
        try:
            status, header, data = self._exchange("GET", f"{url}/readyz", None, _CHUNK_BYTES)
            if status == 503:
                self._refuse_another(url, header)
                return f"is not ready: {_shown(data)}"
            if status == 404 and self._accept_unnamed:
                # Search-R1's server has no such page: only a query can tell.
                self._retrieve(url, ["ready"], 1)
                return ""
            named = self._named_digest(header, _json(data, url)) if status == 200 else ""
        except SearchError as error:
            return f"does not answer: {error.message}"
        if not named and not self._accept_unnamed:
            raise ConfigError(
                f"{url} does not say which index it serves (GET /readyz: status {status})",
                remedy="correct the address; for Search-R1's own server set search.require_digest=false",
            )
        self._refuse_another(url, named)
        return ""

    def _refuse_another(self, url: str, named: str) -> None:
        if named and self._digest and named != self._digest:
            raise ConfigError(
                f"The retriever at {url} serves the index {named}, and this run needs {self._digest}",
                remedy="let the service serve this run's index, or leave search.retriever_url empty",
            )

    def _retrieve(self, url: str, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        asked = {"queries": [plain_query(query) for query in queries], "topk": top_k, "return_scores": True}
        most_bytes = min(_MOST_BYTES, _CHUNK_BYTES + len(queries) * top_k * _BYTES_PER_PASSAGE)
        status, header, data = self._exchange("POST", f"{url}/retrieve", json.dumps(asked).encode(), most_bytes)
        if status != 200:
            raise SearchError(f"{url} answered with status {status}: {_shown(data)}")
        answer = _json(data, url)
        self._check_digest(url, self._named_digest(header, answer))
        return _passages(answer, len(queries), top_k, url)

    def _check_digest(self, url: str, named: str) -> None:
        if named and self._digest and named != self._digest:
            raise SearchError(f"{url} answers from the index {named}, and {self._digest} is needed")
        if not named and not self._accept_unnamed and self._digest:
            raise SearchError(f"{url} does not say which index it answers from, and {self._digest} is needed")

    def _named_digest(self, header: str, answer: Any) -> str:
        body = answer.get(DIGEST_KEY, "") if isinstance(answer, dict) else ""
        named = {text for text in (header, body) if isinstance(text, str) and text}
        if len(named) > 1:
            raise SearchError(f"an answer names two indexes: {_shown(header.encode())} and {_shown(body.encode())}")
        return named.pop() if named else ""

    def _exchange(self, method: str, url: str, body: bytes | None, most_bytes: int) -> tuple[int, str, bytes]:
        """Return status, named digest in the header and body of the answer."""
        deadline_s = time.monotonic() + self._timeout_s
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            response = self._pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False, decode_content=False
            )
            try:
                data = _read(response, most_bytes, deadline_s, url)
            except BaseException:
                # The rest of this answer must not become the start of the next one.
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise SearchError(f"{url}: {type(error).__name__}: {error}") from error
        return response.status, response.headers.get(DIGEST_HEADER, ""), data


def _batches(queries: Sequence[str]) -> list[Sequence[str]]:
    return [queries[start : start + QUERIES_PER_REQUEST] for start in range(0, len(queries), QUERIES_PER_REQUEST)]


def _read(response: urllib3.BaseHTTPResponse, most_bytes: int, deadline_s: float, url: str) -> bytes:
    data = bytearray()
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        data += chunk
        if len(data) > most_bytes:
            raise SearchError(f"{url} sent more than {most_bytes:,} bytes")
        if time.monotonic() > deadline_s:
            raise SearchError(f"{url} did not finish its answer in time")
    return bytes(data)


def _json(data: bytes, url: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SearchError(f"{url} did not answer with JSON ({type(error).__name__}): {_shown(data)}") from None


def _passages(answer: Any, num_queries: int, top_k: int, url: str) -> list[list[ScoredPassage]]:
    lists = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(lists, list) or len(lists) != num_queries:
        given = f"{len(lists)} lists" if isinstance(lists, list) else "no list of results"
        raise SearchError(f"{url} answered {num_queries} queries with {given}")
    try:
        found = [[_passage(hit) for hit in hits] for hits in lists]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SearchError(f"{url} answered with a malformed passage: {type(error).__name__}: {error}") from None
    if any(len(hits) > top_k for hits in found):
        raise SearchError(f"{url} answered with more than {top_k} passages for a query")
    return found


def _passage(hit: Any) -> ScoredPassage:
    document, score = hit["document"], float(hit["score"])
    if not isinstance(document["id"], str | int) or not isinstance(document["contents"], str):
        raise TypeError("id or contents is not text")
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}")
    return ScoredPassage(Passage(str(document["id"]), document["contents"]), score)


def _shown(data: bytes) -> str:
    return repr(data[:200].decode("utf-8", "replace"))
