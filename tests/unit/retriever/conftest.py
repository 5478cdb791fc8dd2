"""The service on a loopback port of this process, over a searcher of a few lines."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import urllib3
import uvicorn

from components.contracts.errors import SearchError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.passage import Passage, ScoredPassage
from components.retriever.app import retriever_app
from components.retriever.config import RetrieverConfig
from components.retriever.service import RetrieverService

DIGEST = "d" * 64


class Echo:
    """Finds `top_k` passages that repeat the query; the query `fail` fails, `nothing` finds none."""

    digest = DIGEST

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        self.batches.append((list(queries), top_k))
        self.gate.wait(20)
        if "fail" in queries:
            raise SearchError("the engine is unwell")
        return [[] if query == "nothing" else [hit(query, rank) for rank in range(top_k)] for query in queries]


def hit(query: str, rank: int) -> ScoredPassage:
    return ScoredPassage(Passage(f"{query}-{rank}", f'"T"\n{query}'), 9.5 - rank)


class RunningService:
    """A server in a thread; `ask` returns (status, headers, parsed JSON or text)."""

    def __init__(self, config: RetrieverConfig, service: RetrieverService) -> None:
        settings = uvicorn.Config(retriever_app(service, config), port=0, log_level="warning", access_log=False)
        self.service, self._server = service, uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url, self._pool = f"http://127.0.0.1:{port}", urllib3.PoolManager(retries=False, maxsize=50)

    def ask(self, method: str, path: str, content=None, **options):
        body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        answer = self._pool.request(method, self.url + path, body=body, timeout=20, **options)
        text = answer.data.decode()
        is_json = answer.headers.get("Content-Type") == "application/json"
        return answer.status, answer.headers, json.loads(text) if is_json else text

    def metrics(self) -> dict[str, float]:
        lines = self.ask("GET", "/metrics")[2].splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        kind="index",
        uri="file:///nowhere",
        files=(),
        digest=DIGEST,
        produced_by=ProducedBy(step="index", version="1", git_commit="abc", config_sha256="0"),
        counts={"passages": 200},
        metadata={
            "index_kind": "bm25",
            "golden_queries": [
                {"query": "lost", "passage_id": "x", "rank": 0},
                {"query": "golden", "passage_id": "golden-2", "rank": 3},
            ],
        },
    )


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def started(manifest, echo) -> Iterator[Callable[..., RunningService]]:
    """A function that starts the service with other settings, or another way to open the index."""
    running: list[RunningService] = []

    def start(read_manifest=lambda: manifest, open_index=lambda _: echo, ready=True, **settings) -> RunningService:
        config = RetrieverConfig(**settings)
        service = RunningService(config, RetrieverService(config, read_manifest, open_index))
        running.append(service)
        if ready:
            wait_until(lambda: service.service.is_ready)
            echo.batches.clear()
        return service

    yield start
    echo.gate.set()
    for service in running:
        service.stop()


@pytest.fixture
def service(started) -> RunningService:
    return started()
