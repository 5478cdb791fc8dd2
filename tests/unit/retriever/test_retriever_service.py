"""The service over HTTP: what it answers, what it refuses, what it counts."""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.contracts.errors import ManifestError, SearchError
from components.retriever.config import RetrieverConfig
from components.retriever.main import MANIFEST_VARIABLE, index_manifest_uri
from components.retriever.service import SIZES, prove
from components.search.http_client import HttpSearcher
from tests.unit.retriever.conftest import DIGEST, hit, wait_until


def as_json(query: str, rank: int) -> dict:
    found = hit(query, rank)
    return {"document": {"id": found.passage.id, "contents": found.passage.contents}, "score": found.score}


def test_the_answer_has_the_shape_of_search_r1_s_server(service):
    asked = {"queries": ["a", "nothing", "b"], "topk": 2, "return_scores": True}
    status, headers, answer = service.ask("POST", "/retrieve", asked)
    assert status == 200 and headers["X-Index-Digest"] == DIGEST
    assert answer == {
        "result": [[as_json("a", 0), as_json("a", 1)], [], [as_json("b", 0), as_json("b", 1)]],
        "index_digest": DIGEST,
    }


@pytest.mark.parametrize(
    ("asked", "lengths"),
    [
        pytest.param({"queries": ["a"]}, [3], id="default topk"),
        pytest.param({"queries": ["a"], "topk": None}, [3], id="topk null"),
        pytest.param({"queries": ["a"], "topk": 7}, [7], id="between the sizes"),
        pytest.param({"queries": ["a"], "topk": 100}, [100], id="largest"),
        pytest.param({"queries": ["a", "a"], "topk": 1}, [1, 1], id="equal queries"),
        pytest.param({"queries": []}, [], id="no queries"),
        pytest.param({"queries": ["", " ", "\x00", "\ud800", "💥" * 4000]}, [3] * 5, id="strange queries"),
        pytest.param({"queries": ["a"], "unknown": 1}, [3], id="unknown key"),
    ],
)
def test_what_may_be_asked(service, asked, lengths):
    status, _, answer = service.ask("POST", "/retrieve", json.dumps(asked).encode())
    assert (status, [len(hits) for hits in answer["result"]]) == (200, lengths)


def test_scores_are_left_out_on_demand(service):
    answer = service.ask("POST", "/retrieve", {"queries": ["a"], "topk": 1, "return_scores": False})[2]
    assert answer["result"] == [[{"document": {"id": "a-0", "contents": '"T"\na'}}]]


SMALL = {"max_queries": 4, "max_query_characters": 10, "max_top_k": 5, "max_body_bytes": 4096, "body_timeout_s": 0.5}
REFUSED = [
    pytest.param(b"", "not JSON", id="empty"),
    pytest.param(b"\xff\xfe{", "not JSON", id="bytes"),
    pytest.param(b"[" * 4000, "not JSON", id="nested"),
    pytest.param(b'"queries"', "no 'queries'", id="a text"),
    pytest.param(b"[]", "no 'queries'", id="a list"),
    pytest.param(b"{}", "no 'queries'", id="no queries"),
    pytest.param(b'{"queries": "a"}', "queries is a text", id="a query"),
    pytest.param(b'{"queries": {"0": "a"}}', "queries is a mapping", id="mapping"),
    pytest.param(b'{"queries": ["a", 5]}', "Query 1 is a number", id="number among queries"),
    pytest.param(b'{"queries": [null]}', "Query 0 is null", id="null among queries"),
    pytest.param(b'{"queries": ["a","a","a","a","a"]}', "5 queries", id="too many queries"),
    pytest.param(b'{"queries": ["aaaaaaaaaaa"]}', "has 11 characters", id="too long"),
    pytest.param(b'{"queries": ["a"], "topk": 0}', "topk is 0", id="topk 0"),
    pytest.param(b'{"queries": ["a"], "topk": 6}', "topk is 6", id="topk too large"),
    pytest.param(b'{"queries": ["a"], "topk": -1}', "topk is -1", id="topk negative"),
    pytest.param(b'{"queries": ["a"], "topk": 1.0}', "topk is a number", id="topk float"),
    pytest.param(b'{"queries": ["a"], "topk": true}', "topk is a boolean", id="topk boolean"),
    pytest.param(b'{"queries": ["a"], "topk": "3"}', "topk is a text", id="topk text"),
    pytest.param(b'{"queries": ["a"], "topk": 1%s}' % (b"0" * 3000), "topk is huge", id="topk huge"),
    pytest.param(b'{"queries": ["a"], "return_scores": 1}', "return_scores is a number", id="scores number"),
    pytest.param(b'{"queries": ["%s"]}' % (b"a" * 5000), "too large", id="body"),
]


@pytest.mark.parametrize(("body", "says"), REFUSED)
def test_what_is_refused(started, echo, body, says):
    service = started(**SMALL, max_waiting_queries=4)
    status, headers, answer = service.ask("POST", "/retrieve", body)
    assert status == 400 and says in answer["error"] and answer["index_digest"] == DIGEST
    assert headers["X-Index-Digest"] == DIGEST and echo.batches == []
    assert service.metrics()['searchr1_retriever_errors_total{reason="refused"}'] == 1


def test_a_body_without_an_end_is_refused(started):
    service = started(**SMALL)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{")
        assert b"did not arrive in time" in raw.makefile("rb").read()
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        raw.sendall(b"1000\r\n" + b" " * 0x1000 + b"\r\n1000\r\n" + b" " * 0x1000 + b"\r\n")
        assert b"too large" in raw.makefile("rb").read()
    assert service.ask("POST", "/retrieve", {"queries": ["a"]})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/retrieve", 405), ("POST", "/metrics", 405), ("GET", "/../etc/passwd", 404)],
)
def test_other_pages_do_not_exist(service, method, path, status):
    found, headers, answer = service.ask(method, path)
    assert found == status and "/retrieve" in answer["error"] and headers["X-Index-Digest"] == DIGEST


def test_an_engine_that_fails_is_no_empty_result(service):
    status, _, answer = service.ask("POST", "/retrieve", {"queries": ["a", "fail"]})
    assert status == 500 and "the engine is unwell" in answer["error"] and "result" not in answer
    assert service.ask("POST", "/retrieve", {"queries": ["a"]})[0] == 200


def test_concurrent_queries_share_batches(started, echo):
    service = started(window_s=0.2)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: service.ask("POST", "/retrieve", {"queries": [f"q{n}"]})[2], range(20)))
    assert [answer["result"][0][0]["document"]["id"] for answer in answers] == [f"q{n}-0" for n in range(20)]
    assert len(echo.batches) <= 5 and sum(len(queries) for queries, _ in echo.batches) == 20
    metrics = service.metrics()
    assert metrics["searchr1_retriever_batch_queries_count"] == len(echo.batches)
    assert metrics["searchr1_retriever_batch_queries_sum"] == 20


def test_the_engine_sees_few_sizes(service, echo):
    for top_k in range(1, 101):
        service.ask("POST", "/retrieve", {"queries": ["a"], "topk": top_k})
    assert sorted({top_k for _, top_k in echo.batches}) == list(SIZES)


def test_the_engine_is_asked_for_no_more_than_anybody_may_ask_for(started, echo):
    service = started(max_top_k=15)
    assert len(service.ask("POST", "/retrieve", {"queries": ["a"], "topk": 12})[2]["result"][0]) == 12
    assert echo.batches == [(["a"], 15)]


def test_a_full_queue_sends_away_and_recovers(started, echo):
    service = started(max_waiting_queries=3, max_queries=2)
    echo.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.ask, "POST", "/retrieve", {"queries": ["a", "b"]})
        wait_until(lambda: service.metrics()["searchr1_retriever_waiting_queries"] == 2)
        status, headers, answer = service.ask("POST", "/retrieve", {"queries": ["c", "d"]})
        assert (status, headers["Retry-After"]) == (503, "1") and "2 queries are under way" in answer["error"]
        echo.gate.set()
        assert first.result()[0] == 200
    assert service.ask("POST", "/retrieve", {"queries": ["c", "d"]})[0] == 200
    assert service.metrics()["searchr1_retriever_waiting_queries"] == 0


def test_an_answer_frees_its_own_place_alone(started, echo):
    service = started(max_waiting_queries=3, max_queries=2)
    service.ask("POST", "/retrieve", {"queries": ["known"]})
    echo.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.ask, "POST", "/retrieve", {"queries": ["a", "b"]})
        wait_until(lambda: service.metrics()["searchr1_retriever_waiting_queries"] == 2)
        # A remembered query is answered while the others wait for the engine.
        assert service.ask("POST", "/retrieve", {"queries": ["known"]})[0] == 200
        status = service.ask("POST", "/retrieve", {"queries": ["c", "d"]})[0]
        echo.gate.set()
        assert (status, first.result()[0]) == (503, 200)


@pytest.mark.parametrize(
    ("variable", "setting", "uri"),
    [
        pytest.param("s3://of/environment", "s3://of/file", "s3://of/environment", id="both"),
        pytest.param("", "s3://of/file", "s3://of/file", id="file"),
        pytest.param("s3://of/environment", "", "s3://of/environment", id="environment"),
    ],
)
def test_the_environment_names_the_index_before_the_file(monkeypatch, variable, setting, uri):
    monkeypatch.setenv(MANIFEST_VARIABLE, variable)
    assert index_manifest_uri(RetrieverConfig(index_manifest_uri=setting)) == uri


def test_a_query_that_takes_too_long_fails(started, echo):
    service = started(deadline_s=0.3)
    echo.gate.clear()
    status, _, answer = service.ask("POST", "/retrieve", {"queries": ["a"]})
    assert status == 500 and "no answer within 0.3 s" in answer["error"]


def test_an_engine_that_hangs_makes_the_pod_start_anew(started, echo):
    service = started(deadline_s=0.2, stuck_after_s=0.4)
    assert service.ask("POST", "/retrieve", {"queries": ["a"]})[0] == 200
    echo.gate.clear()
    assert service.ask("POST", "/retrieve", {"queries": ["b"]})[0] == 500
    wait_until(lambda: service.ask("GET", "/healthz")[0] == 503)
    echo.gate.set()
    wait_until(lambda: service.ask("GET", "/healthz")[0] == 200)


def test_readiness_comes_with_the_index_and_health_before(started, manifest, echo):
    reading, opening = threading.Event(), threading.Event()
    service = started(lambda: reading.wait(20) and manifest, lambda _: opening.wait(20) and echo, ready=False)
    assert service.ask("GET", "/healthz")[0] == 200
    status, headers, answer = service.ask("GET", "/readyz")
    assert (status, answer["index_digest"]) == (503, None) and "X-Index-Digest" not in headers
    reading.set()
    wait_until(lambda: service.ask("GET", "/readyz")[2]["state"].startswith("fetching"))
    status, headers, answer = service.ask("GET", "/readyz")
    assert (status, answer["ready"], headers["X-Index-Digest"]) == (503, False, DIGEST)
    status, headers, answer = service.ask("POST", "/retrieve", {"queries": ["a"]})
    assert status == 503 and "fetching" in answer["error"] and "Retry-After" in headers
    assert service.metrics()["searchr1_retriever_ready"] == 0
    opening.set()
    wait_until(lambda: service.ask("GET", "/readyz")[0] == 200)
    assert echo.batches == [(["golden"], 10)]
    HttpSearcher([service.url], DIGEST).wait_until_ready(5, print)


def test_an_index_that_forgot_its_golden_passage_never_gets_ready(started, manifest, echo):
    class Forgetful:
        digest = DIGEST

        def search(self, queries, top_k):
            return [[hit("other", 0)] for _ in queries]

    service = started(open_index=lambda _: Forgetful(), ready=False)
    wait_until(lambda: service.service.failure is not None)
    assert service.ask("GET", "/readyz")[0] == 503
    assert "does not find passage 'golden-2'" in str(service.service.failure)
    with pytest.raises(SearchError, match="golden-2"):
        prove(Forgetful(), manifest)
    prove(Forgetful(), manifest.model_copy(update={"metadata": {}}))


def test_the_first_query_looks_as_deep_as_the_passage_was_found(manifest, echo):
    golden = {"query": "golden", "passage_id": "golden-14", "rank": 15}
    prove(echo, manifest.model_copy(update={"metadata": {"golden_queries": [golden]}}))
    assert echo.batches == [(["golden"], 15)]


@pytest.mark.parametrize(("cached_queries", "searches"), [(0, 2), (1, 1)])
def test_as_many_queries_are_remembered_as_are_asked_for(started, echo, cached_queries, searches):
    service = started(cached_queries=cached_queries)
    for _ in range(2):
        assert service.ask("POST", "/retrieve", {"queries": ["a"]})[0] == 200
    assert len(echo.batches) == searches


def test_an_index_that_cannot_be_opened_says_why(started):
    def damaged(_):
        raise ManifestError("s3://x is damaged: lucene/_0.cfs is missing")

    service = started(open_index=damaged, ready=False)
    wait_until(lambda: service.service.failure is not None)
    assert "lucene/_0.cfs is missing" in service.ask("GET", "/readyz")[2]["state"]


SAMPLE = re.compile(r'^[a-z_][a-z0-9_]*(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? (\+Inf|-?\d+(\.\d+)?(e-?\d+)?)$')


def test_the_metrics_are_what_prometheus_reads(service):
    service.ask("POST", "/retrieve", {"queries": ["a", "b"]})
    service.ask("POST", "/retrieve", {"queries": ["a"]})
    service.ask("GET", "/x" + "y" * 100)
    status, headers, text = service.ask("GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    described = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.match(line) for line in samples)
    for line in samples:
        name = re.match(r"[a-z0-9_]+", line)[0]
        assert name in described or re.sub(r"_(bucket|sum|count)$", "", name) in described
    metrics = service.metrics()
    assert metrics["searchr1_retriever_queries_total"] == 3
    assert metrics["searchr1_retriever_remembered_queries_total"] == 1
    assert metrics['searchr1_retriever_requests_total{path="/retrieve",status="200"}'] == 2
    assert metrics['searchr1_retriever_requests_total{path="other",status="404"}'] == 1
    assert metrics[f'searchr1_retriever_index_info{{digest="{DIGEST}",kind="bm25"}}'] == 1
    assert metrics["searchr1_retriever_index_passages"] == 200
    buckets = [value for name, value in metrics.items() if name.startswith("searchr1_retriever_request_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == metrics["searchr1_retriever_request_seconds_count"] == 2


def test_every_metric_is_documented(service):
    documented = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    service.ask("POST", "/retrieve", {"queries": ["fail"]})
    names = re.findall(r"# TYPE (\S+)", service.ask("GET", "/metrics")[2])
    assert len(names) == 11 and [name for name in names if f"`{name}`" not in documented] == []
