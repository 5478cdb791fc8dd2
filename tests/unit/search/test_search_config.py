"""Where a step looks for its search engine."""

import socket
import time

import pytest

from components.contracts.errors import ConfigError, ManifestError, SearchError
from components.contracts.manifest import Manifest, ProducedBy
from components.evaluate.config import EvaluateConfig
from components.search.config import SearchConfig, retriever_urls
from components.search.http_client import HttpSearcher
from components.search.open import check_reachable, search_client, searcher_for
from components.train.config import TrainConfig

MANIFEST = Manifest(
    kind="index",
    uri="file:///nowhere",
    files=(),
    digest="0" * 64,
    produced_by=ProducedBy(step="index", version="1", git_commit="abc", config_sha256="0"),
    metadata={"index_kind": "bm25"},
)
# Port 1 answers nobody.
CLOSED = SearchConfig(retriever_url="http://127.0.0.1:1", ready_timeout_s=0)


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        pytest.param("", (), id="none"),
        pytest.param(" , ", (), id="nothing"),
        pytest.param("http://a:1/", ("http://a:1",), id="one"),
        pytest.param("http://a:1, https://b", ("http://a:1", "https://b"), id="two"),
    ],
)
def test_addresses(text, urls):
    assert retriever_urls(text) == urls
    assert SearchConfig(retriever_url=text).retriever_url == text


@pytest.mark.parametrize(
    "url", ["retriever:8000", "ftp://a", "http://", "http://u:p@a", "http://a?x=1", "http://a,b", "file:///etc/passwd"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="retriever_url"):
        SearchConfig.parse({"retriever_url": url}, where="train.search")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.8.8", "retriever:8000,http://127.0.0.1"])
def test_several_nodes_need_an_address_that_is_not_their_own(host):
    config = SearchConfig(retriever_url=f"http://{host}:8000")
    check_reachable(config, num_nodes=1)
    with pytest.raises(ConfigError, match="2 nodes"):
        check_reachable(config, num_nodes=2)
    check_reachable(SearchConfig(retriever_url="http://searchr1-retriever:8000"), num_nodes=2)


@pytest.mark.parametrize("config_class", [TrainConfig, EvaluateConfig])
def test_steps_search_in_process_unless_told_otherwise(config_class):
    assert config_class().search == SearchConfig() and SearchConfig().retriever_url == ""


def test_the_place_of_the_index_is_no_part_of_what_a_run_resumes_from():
    moved = TrainConfig(search=SearchConfig(retriever_url="http://a"))
    assert moved.sha256() == TrainConfig().sha256() != TrainConfig(steps=7).sha256()


def test_the_environment_of_a_pod_names_its_retriever(monkeypatch):
    monkeypatch.setenv("SEARCHR1_RETRIEVER_URL", "http://127.0.0.1:1")
    with pytest.raises(SearchError, match=r"127\.0\.0\.1:1 does not answer"):
        searcher_for(MANIFEST, SearchConfig(ready_timeout_s=0))
    monkeypatch.setenv("SEARCHR1_RETRIEVER_URL", "nonsense")
    with pytest.raises(ConfigError, match="'nonsense'"):
        searcher_for(MANIFEST, SearchConfig(ready_timeout_s=0))
    with pytest.raises(SearchError, match=r"127\.0\.0\.1:1 does not answer"):
        searcher_for(MANIFEST, CLOSED)


class Down:
    """Fails so many calls, then answers; counts them."""

    digest = "0" * 64

    def __init__(self, num_failures):
        self.left, self.calls = num_failures, 0

    def search(self, queries, top_k):
        self.calls += 1
        if self.calls <= self.left:
            raise SearchError("away")
        return [[] for _ in queries]


class DownService(Down, HttpSearcher):
    """The same as a service."""


@pytest.mark.parametrize(
    ("searcher", "answers"),
    [
        pytest.param(DownService(5), True, id="a service is waited for"),
        pytest.param(Down(3), True, id="an index in process is asked four times"),
        pytest.param(Down(5), False, id="and no more"),
    ],
)
def test_patience_is_for_services(searcher, answers):
    with search_client(searcher, SearchConfig(retries=6), top_k=1) as client:
        if answers:
            assert client.submit("q").result() == []
            return
        with pytest.raises(SearchError, match="away"):
            client.submit("q").result()


@pytest.mark.parametrize("searcher", [DownService(0), Down(0)], ids=["a service", "an index in process"])
def test_a_client_that_shall_remember_nothing_asks_again(searcher):
    with search_client(searcher, SearchConfig(), top_k=1, cache_size=0) as client:
        assert [client.submit("q").result() for _ in range(2)] == [[], []]
    assert searcher.calls == 2


def test_a_search_in_a_service_ends_at_its_deadline():
    started_s = time.monotonic()
    with (
        search_client(DownService(99), SearchConfig(deadline_s=0.2), top_k=1) as client,
        pytest.raises(SearchError, match=r"no answer within 0\.2 s"),
    ):
        client.submit("q").result()
    assert time.monotonic() - started_s < 2


def test_a_service_that_says_nothing_is_given_up_after_the_timeout_of_a_request():
    # Connections are taken by the system, and nobody reads what comes over them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url, started_s = f"http://127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        with pytest.raises(SearchError, match="does not answer"):
            searcher_for(MANIFEST, SearchConfig(retriever_url=url, request_timeout_s=0.2, ready_timeout_s=0))
    assert time.monotonic() - started_s < 5


def test_a_service_is_asked_for_indexes_only():
    with pytest.raises(ManifestError, match="kind 'corpus'"):
        searcher_for(MANIFEST.model_copy(update={"kind": "corpus"}), CLOSED)
