"""The retriever service as a process of its own, over a real index: equal answers, load, signals, restarts."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from components.agent.config import LoopConfig
from components.agent.engines.load import load_model
from components.agent.engines.torch_engine import TorchEngine
from components.agent.episode_loop import EpisodeTask
from components.agent.prompt import prompt_ids
from components.agent.rollout import rollout
from components.contracts.errors import ConfigError, SearchError
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.corpus import main as corpus_step
from components.corpus.config import CorpusConfig
from components.fictional_world.writer import write_world
from components.index import main as index_step
from components.index.config import IndexConfig
from components.search.concurrent import ConcurrentSearch
from components.search.config import SearchConfig
from components.search.http_client import HttpSearcher
from components.search.open import open_searcher, search_client, searcher_for
from tests.integration.retriever_process import ROOT, Retriever, wait_until

MODEL = ROOT / "components" / "base_model" / "bundled" / "model"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Manifest, list[str]]:
    """The index of a mini world, and questions about it."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "written", size="mini", seed=3)
    corpus_config = CorpusConfig(uri=str(folder / "written" / "corpus.jsonl"))
    context = StepContext("corpus", f"file://{folder}", "0" * 64, corpus_config.sha256())
    corpus = corpus_step.run(corpus_config, context).manifest
    index_config = IndexConfig(threads=1, heap="256m")
    context = StepContext("index", f"file://{folder}", "0" * 64, index_config.sha256())
    index = index_step.run(index_config, context, corpus=corpus).manifest
    rows = (folder / "written" / "questions" / "hotpotqa" / "train.jsonl").read_text().splitlines()
    return index, [json.loads(row)["question"] for row in rows[:200]]


@pytest.fixture
def started(world) -> Iterator[Callable[..., Retriever]]:
    running: list[Retriever] = []

    def start(*arguments: str, **environment: str) -> Retriever:
        running.append(Retriever(*(arguments or (world[0].uri,)), **environment))
        return running[-1]

    yield start
    for retriever in running:
        retriever.process.kill()


@pytest.fixture
def client(world, started) -> HttpSearcher:
    return searcher_for(world[0], SearchConfig(retriever_url=started().url, ready_timeout_s=60))


def test_two_hundred_concurrent_queries_equal_those_in_process(world, client):
    index, questions = world
    expected = open_searcher(index).search(questions, 3)
    assert sum(map(len, expected)) > 200
    with ThreadPoolExecutor(200) as pool:
        assert list(pool.map(lambda question: client.search([question], 3)[0], questions)) == expected
    fresh = [f"{question} again {n}" for n in range(10) for question in questions]
    with ConcurrentSearch(client, top_k=3, cache_size=0) as search:
        futures = [search.submit(query) for query in fresh]
        assert all(future.result() for future in futures)
    assert client.search(["same words " * 500, "\x00\ud800", ""], 3) == open_searcher(index).search(
        ["same words " * 500, "\x00\ud800", ""], 3
    )


def test_rollouts_through_the_service_equal_those_in_process(world, client):
    index, questions = world
    loop = LoopConfig(top_k=2)
    model, tokenizer = load_model(MODEL)
    tasks = [
        EpisodeTask(str(number), prompt_ids(question, loop, tokenizer), seed=number, temperature=1.0)
        for number, question in enumerate(questions[:24])
    ]

    def episodes(searcher):
        engine = TorchEngine(model, tokenizer, num_slots=24, max_context_tokens=loop.max_context_tokens)
        with ConcurrentSearch(searcher, loop.top_k) as search:
            return [without_times(episode) for episode in rollout(engine, search, tasks, loop, tokenizer)]

    in_process = episodes(open_searcher(index))
    assert sum(len(episode.searches) for episode in in_process) > 24
    assert episodes(client) == in_process


def without_times(episode):
    return replace(episode, wall_s=0.0, searches=[replace(search, latency_s=0.0) for search in episode.searches])


@pytest.mark.slow
def test_a_termination_under_load_ends_well_and_a_restart_is_ridden_out(world, started):
    index, questions = world
    expected = dict(zip(questions, open_searcher(index).search(questions, 3), strict=True))
    first = started()
    port = first.url.rpartition(":")[2]
    config = SearchConfig(retriever_url=first.url, ready_timeout_s=60, retries=60)
    client = searcher_for(index, config)
    done, answers = threading.Event(), []

    def keep_asking(number: int) -> int:
        asked = 0
        with search_client(client, config, top_k=3, cache_size=0) as search:
            while not done.is_set():
                question = questions[(number * 37 + asked) % len(questions)]
                answers.append(search.submit(question).result() == expected[question])
                asked += 1
        return asked

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(keep_asking, number) for number in range(8)]
        wait_until(lambda: len(answers) > 50)
        assert first.stop() == 0 and first.printed[-1] == "stopped\n"
        second = started(index.uri, f"port={port}")
        before = len(answers)
        wait_until(lambda: len(answers) > before + 50)
        done.set()
        assert all(thread.result() > 0 for thread in threads)
    assert all(answers)
    assert second.stop() == 0


def test_requests_under_way_are_finished_before_the_end(world, started):
    index, questions = world
    retriever = started(index.uri, "port=0,window_s=1")
    searcher_for(index, SearchConfig(retriever_url=retriever.url, ready_timeout_s=60))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(HttpSearcher([retriever.url], index.digest).search, questions[:5], 3)
        wait_until(lambda: "waiting_queries 5" in retriever.page("/metrics"))
        retriever.process.terminate()
        assert asked.result() == open_searcher(index).search(questions[:5], 3)
    assert retriever.process.wait(30) == 0
    with pytest.raises(SearchError, match="refused"):
        HttpSearcher([retriever.url], index.digest).search(["late"], 3)


def test_a_run_of_another_index_is_not_answered(world, client):
    index, _ = world
    other = index.model_copy(update={"digest": "f" * 64})
    url = client._urls[0]
    with pytest.raises(ConfigError, match=f"(?s){index.digest}.*{'f' * 64}"):
        searcher_for(other, SearchConfig(retriever_url=url))
    with pytest.raises(SearchError, match=f"{index.digest}.*{'f' * 64}"):
        HttpSearcher([url], other.digest).search(["q"], 1)


@pytest.mark.parametrize(
    ("uri", "settings", "exit_code", "says"),
    [
        pytest.param("", "port=0", 2, "SEARCHR1_INDEX_MANIFEST_URI", id="no index named"),
        pytest.param("file:///nowhere/index", "port=0", 2, "file:///nowhere/index/manifest.json does not", id="absent"),
        pytest.param("ftp://x/y", "port=0", 2, "names no storage", id="unknown storage"),
        pytest.param("file:///x", "prot=0", 2, "did you mean 'port'", id="misspelled setting"),
        pytest.param("file:///x", "host=256.0.0.1", 2, "Cannot listen on 256.0.0.1", id="no address"),
    ],
)
def test_what_stops_the_start_is_said(started, uri, settings, exit_code, says):
    retriever = started(uri, settings)
    assert retriever.process.wait(60) == exit_code
    wait_until(lambda: says in "".join(retriever.printed))
    assert "Traceback" not in "".join(retriever.printed)


def test_in_a_job_a_stop_is_no_success(world, started):
    retriever = started(world[0].uri, "port=0,exit_code_when_stopped=143")
    assert retriever.url
    retriever.process.send_signal(signal.SIGTERM)
    assert retriever.process.wait(30) == 143
