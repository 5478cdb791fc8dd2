"""HttpSearcher against services that answer well, badly, slowly, and from another index."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.contracts.errors import ConfigError, SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import ConcurrentSearch
from components.search.config import SearchConfig
from components.search.http_client import QUERIES_PER_REQUEST, HttpSearcher
from components.search.open import searcher_for
from components.search.protocol import MAX_QUERY_CHARACTERS, Searcher
from tests.unit.search.test_search_config import MANIFEST

OURS, OTHER = "a" * 64, "b" * 64


class Stub:
    """A service on loopback; `answer` gets (method, path, asked) and returns (status, headers, body)."""

    def __init__(self) -> None:
        self.answer: Callable = well_answered
        self.asked: list[dict] = []
        self.connections: set = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                stub.connections.add(self.client_address)
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
                stub.asked.append(asked)
                answer = stub.answer(self.command, self.path, asked)
                if callable(answer):
                    # The client hangs up on an answer without end.
                    with suppress(ConnectionError):
                        answer(self)
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def hit(query: str, score: float = 1.5) -> dict:
    return {"document": {"id": f"id of {query}", "contents": f'"T"\n{query}'}, "score": score}


def well_answered(method, path, asked, digest=OURS):
    if method == "GET":
        return 200, {"X-Index-Digest": digest}, json.dumps({"ready": True, "index_digest": digest}).encode()
    body = {"result": [[hit(query)] for query in asked["queries"]], "index_digest": digest}
    return 200, {"X-Index-Digest": digest}, json.dumps(body).encode()


def as_search_r1(method, path, asked):
    """The original server: no digest, no readiness page, scores only when asked for."""
    if method == "GET":
        return 404, {}, b'{"detail":"Not Found"}'
    assert asked["return_scores"] is True
    return 200, {}, json.dumps({"result": [[hit(query)] for query in asked["queries"]]}).encode()


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.close()


@pytest.fixture
def searcher(stub) -> HttpSearcher:
    return HttpSearcher([stub.url], OURS)


def test_passages_and_scores_come_back(stub, searcher):
    assert isinstance(searcher, Searcher)
    score = 7.099999904632568
    stub.answer = lambda *_: (200, {"X-Index-Digest": OURS}, json.dumps({"result": [[hit("q", score)], []]}).encode())
    found = searcher.search(["q", "nothing"], 3)
    assert found == [[ScoredPassage(Passage("id of q", '"T"\nq'), score)], []]
    assert stub.asked == [{"queries": ["q", "nothing"], "topk": 3, "return_scores": True}]
    assert searcher.search([], 3) == [] and len(stub.asked) == 1
    assert searcher.digest == OURS


def test_one_connection_serves_many_requests(stub, searcher):
    for _ in range(5):
        searcher.search(["q"], 1)
    assert len(stub.connections) == 1


def test_many_queries_travel_in_several_requests_and_hostile_ones_arrive_clean(stub, searcher):
    queries = [f"q{number}" for number in range(QUERIES_PER_REQUEST + 1)]
    assert [hits[0].passage.id for hits in searcher.search(queries, 1)] == [f"id of {query}" for query in queries]
    assert [len(asked["queries"]) for asked in stub.asked] == [QUERIES_PER_REQUEST, 1]
    searcher.search(["x" * 5000, "half \ud83d", "\x00\n"], 1)
    assert stub.asked[-1]["queries"] == ["x" * MAX_QUERY_CHARACTERS, "half ?", "\x00\n"]


def body(**content) -> Callable:
    return lambda *_: (200, {"X-Index-Digest": OURS}, json.dumps(content).encode())


def raw(data: bytes, **headers) -> Callable:
    return lambda *_: (200, {"X-Index-Digest": OURS} | headers, data)


def dripping(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(600):
        time.sleep(0.1)
        handler.wfile.write(b" ")
        handler.wfile.flush()


def cut_short(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def endless(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b" " * 65536)


BAD = [
    pytest.param(lambda *_: (500, {}, b"<html>oops</html>"), "status 500: '<html>oops", id="error status"),
    pytest.param(lambda *_: (503, {"Retry-After": "1"}, b"{}"), "status 503", id="overloaded"),
    pytest.param(lambda *_: (302, {"Location": "http://127.0.0.1:1/"}, b""), "status 302", id="redirects"),
    pytest.param(raw(b"<html>"), "not answer with JSON", id="html"),
    pytest.param(raw(b'{"result": [['), "not answer with JSON", id="cut json"),
    pytest.param(raw(b"[" * 100_000), "not answer with JSON", id="nested json"),
    pytest.param(raw(b'{"result": [[' + b"9" * 5000 + b"]]}"), "JSON|malformed", id="huge number"),
    pytest.param(raw(gzip.compress(b" " * 1000), **{"Content-Encoding": "gzip"}), "JSON", id="compressed"),
    pytest.param(lambda *_: cut_short, "IncompleteRead", id="truncated body"),
    pytest.param(lambda *_: dripping, "in time|Timeout", id="drips"),
    pytest.param(lambda *_: endless, "more than", id="endless"),
    pytest.param(lambda *_: lambda handler: None, "closed|Protocol", id="closes the connection"),
    pytest.param(lambda *_: lambda handler: time.sleep(60), "Timeout", id="hangs"),
    pytest.param(
        lambda *_: lambda handler: handler.wfile.write(b"\x00junk\r\n\r\n"), "Protocol|BadStatus", id="no HTTP"
    ),
    pytest.param(body(result=[]), "1 queries with 0 lists", id="too few lists"),
    pytest.param(body(result=[[], []]), "1 queries with 2 lists", id="too many lists"),
    pytest.param(body(result={"0": []}), "no list of results", id="no list"),
    pytest.param(body(detail="x"), "no list of results", id="no result"),
    pytest.param(raw(b"[]"), "no list of results", id="not a mapping"),
    pytest.param(body(result=[None]), "malformed passage", id="no hits"),
    pytest.param(body(result=[[3]]), "malformed passage", id="hit is a number"),
    pytest.param(body(result=[[{"document": {"id": "1"}, "score": 1}]]), "KeyError: 'contents'", id="no contents"),
    pytest.param(body(result=[[{"document": {"id": "1", "contents": 5}, "score": 1}]]), "not text", id="contents 5"),
    pytest.param(body(result=[[{"document": {"id": "1", "contents": ""}}]]), "KeyError: 'score'", id="no score"),
    pytest.param(raw(json.dumps({"result": [[hit("q", float("nan"))]]}).encode()), "score is nan", id="nan"),
    pytest.param(body(result=[[hit("q", 10**400)]]), "malformed passage", id="endless score"),
    pytest.param(body(result=[[hit("q"), hit("r")]]), "more than 1 passages", id="more than top_k"),
]


@pytest.mark.parametrize(("answer", "says"), BAD)
def test_a_bad_answer_is_a_search_error(stub, answer, says):
    stub.answer = answer
    searcher = HttpSearcher([stub.url], OURS, timeout_s=1.5)
    started_s = time.monotonic()
    with pytest.raises(SearchError, match=says):
        searcher.search(["q"], 1)
    # Far from the minute that some of them take: the machine may be halted for a while.
    assert time.monotonic() - started_s < 30
    stub.answer = well_answered
    assert searcher.search(["q"], 1)[0][0].passage.id == "id of q"


def test_nobody_listens(stub):
    stub.close()
    with pytest.raises(SearchError, match="refused"):
        HttpSearcher([stub.url], OURS).search(["q"], 1)
    with pytest.raises(SearchError, match="NameResolution"):
        HttpSearcher(["http://nowhere.invalid:1"], OURS).search(["q"], 1)


def named(in_header: str, in_body: str) -> Callable:
    content = {"result": [[]]} | ({"index_digest": in_body} if in_body else {})
    return lambda *_: (200, {"X-Index-Digest": in_header} if in_header else {}, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("answer", "accept_unnamed", "says"),
    [
        pytest.param(named(OURS, OURS), False, "", id="ours"),
        pytest.param(named(OURS, ""), False, "", id="header alone"),
        pytest.param(named("", OURS), False, "", id="body alone"),
        pytest.param(named(OTHER, OTHER), False, f"{OTHER}.*{OURS}", id="another"),
        pytest.param(named(OTHER, OTHER), True, f"{OTHER}.*{OURS}", id="another is never accepted"),
        pytest.param(named(OURS, OTHER), False, "names two indexes", id="two"),
        pytest.param(named("", ""), False, "does not say which index", id="none"),
        pytest.param(named("", ""), True, "", id="none, accepted"),
    ],
)
def test_only_the_expected_index_answers(stub, answer, accept_unnamed, says):
    stub.answer = answer
    searcher = HttpSearcher([stub.url], OURS, accept_unnamed=accept_unnamed)
    if not says:
        assert searcher.search(["q"], 1) == [[]]
        return
    with pytest.raises(SearchError, match=says):
        searcher.search(["q"], 1)


def test_the_digest_is_the_service_s_own_unless_one_is_expected(stub):
    assert HttpSearcher([stub.url]).digest == OURS
    assert HttpSearcher([stub.url], OTHER).digest == OTHER
    stub.answer = as_search_r1
    with pytest.raises(SearchError, match="does not say which index"):
        HttpSearcher([stub.url], accept_unnamed=True).digest  # noqa: B018


def test_replicas_are_asked_in_turn_and_a_dead_one_costs_retries_only(stub):
    second, dead = Stub(), Stub()
    dead.close()
    searcher = HttpSearcher([stub.url, second.url, dead.url], OURS)
    searcher.wait_until_ready(5, lambda text: None)
    stub.asked.clear(), second.asked.clear()
    with ConcurrentSearch(searcher, top_k=1, max_batch=1, max_concurrent=1) as client:
        for number in range(8):
            assert client.submit(f"q{number}").result()[0].passage.id == f"id of q{number}"
        assert client.stats.retries > 0
    assert min(len(stub.asked), len(second.asked)) >= 3
    second.close()


def test_readiness_is_waited_for(stub, searcher):
    answers = iter([(503, {}, b'{"state": "fetching"}'), (503, {}, b"{}")])
    stub.answer = lambda *asked: next(answers, None) or well_answered(*asked)
    said = []
    searcher.wait_until_ready(30, said.append)
    assert len(said) == 1 and "fetching" in said[0]
    stub.answer = lambda *_: (503, {}, b'{"state": "fetching"}')
    with pytest.raises(SearchError, match=r"no retriever was ready within 0 s.*fetching"):
        searcher.wait_until_ready(0.1, said.append)


@pytest.mark.parametrize("status", [pytest.param(200, id="ready"), pytest.param(503, id="still fetching it")])
def test_another_index_is_refused_at_the_start(stub, status):
    stub.answer = lambda *asked: (status, *well_answered(*asked)[1:])
    with pytest.raises(ConfigError, match=f"(?s){OURS}.*{OTHER}"):
        HttpSearcher([stub.url], OTHER).wait_until_ready(5, print)


def test_the_original_server_is_used_only_on_demand(stub):
    stub.answer = as_search_r1
    with pytest.raises(ConfigError, match="require_digest=false"):
        searcher_for(MANIFEST, SearchConfig(retriever_url=stub.url))
    searcher = searcher_for(MANIFEST, SearchConfig(retriever_url=stub.url, require_digest=False))
    assert searcher.search(["q"], 1)[0][0].passage.contents == '"T"\nq'
