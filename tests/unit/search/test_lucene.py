"""LuceneSearcher against an independent BM25, and against hostile queries."""

import math
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.contracts.errors import ManifestError
from components.contracts.manifest import ProducedBy
from components.search.concurrent import ConcurrentSearch
from components.search.lucene import LuceneSearcher
from components.search.open import LUCENE_FOLDER, open_searcher
from components.search.protocol import MAX_QUERY_CHARACTERS, Searcher
from components.storage import publish


@pytest.fixture(scope="module")
def searcher(lucene_index) -> LuceneSearcher:
    return LuceneSearcher(lucene_index, "0" * 64, threads=2)


def lucene_length(length: int) -> int:
    """Lucene keeps lengths in one byte: exact below 24, later rounded down; the test's documents are short."""
    assert length < 24
    return length


def slow_bm25(documents: dict[str, str], query: str, k1: float = 0.9, b: float = 0.4) -> dict[str, float]:
    """BM25 as in Lucene's BM25Similarity: idf * tf / (tf + k1 * (1 - b + b * length / mean length))."""
    words = {name: text.split() for name, text in documents.items()}
    mean_length = sum(map(len, words.values())) / len(words)
    scores: Counter[str] = Counter()
    for term in query.split():
        holders = [name for name in words if term in words[name]]
        idf = math.log(1 + (len(words) - len(holders) + 0.5) / (len(holders) + 0.5))
        for name in holders:
            count, length = words[name].count(term), lucene_length(len(words[name]))
            scores[name] += idf * count / (count + k1 * (1 - b + b * length / mean_length))
    return scores


@pytest.mark.parametrize("query", ["zebra", "quartz violin", "unique7 copper", "falcon falcon", "lantern absent"])
def test_scores_equal_an_independent_bm25(searcher, documents, query):
    check_scores(searcher, documents, query)


def test_an_index_is_searched_with_the_constants_of_its_manifest(lucene_index, documents, tmp_path):
    shutil.copytree(lucene_index, tmp_path / "index" / LUCENE_FOLDER)
    manifest = publish(
        tmp_path / "index",
        storage_root=f"file://{tmp_path}/runs",
        kind="index",
        produced_by=ProducedBy(step="index", version="1", git_commit="abc", config_sha256="0"),
        metadata={"index_kind": "bm25", "k1": 1.6, "b": 0.9},
    )
    check_scores(open_searcher(manifest, tmp_path / "cache"), documents, "quartz violin", k1=1.6, b=0.9)


def check_scores(searcher, documents, query, **constants) -> None:
    # What the analyzer leaves of the two texts with signs and stop words.
    analyzed = {"strange": "emoji o title naive zebrafish answer gold answer o"}
    analyzed |= dict.fromkeys(("twin2", "twin10", "twin1"), "same words same order")
    expected = slow_bm25(documents | analyzed, query, **constants)
    found = searcher.search([query], 100)[0]
    assert {hit.passage.id for hit in found} == set(expected)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    for hit in found:
        assert hit.score == pytest.approx(expected[hit.passage.id], abs=2e-4)


def test_equal_scores_come_in_the_order_of_ids_as_text(searcher):
    assert [hit.passage.id for hit in searcher.search(["same words"], 3)[0]] == ["twin1", "twin10", "twin2"]


def test_a_batch_equals_its_single_queries(searcher):
    queries = ["zebra", "", "quartz violin", "unique3", "the of", "falcon"]
    assert searcher.search(queries, 5) == [searcher.search([query], 5)[0] for query in queries]
    assert searcher.search([], 5) == []


def test_passages_come_back_as_stored(searcher, documents):
    hit = searcher.search(["zebrafish"], 1)[0][0]
    assert (hit.passage.id, hit.passage.contents) == ("strange", documents["strange"])


@pytest.mark.parametrize(
    ("query", "finds"),
    [
        pytest.param("", [], id="empty"),
        pytest.param(" \t\n", [], id="blank"),
        pytest.param("the of and", [], id="stop-words"),
        pytest.param("~!@#$%^&*()_+{}|:<>?", [], id="signs"),
        pytest.param("*:*", [], id="match-all"),
        pytest.param('contents: zebrafish AND (b OR "', ["strange"], id="query-language-is-text"),
        pytest.param("zebrafish" + " z" * 20_000, ["strange"], id="very-long"),
        pytest.param("zebrafish " + " ".join(map(chr, range(0x4E00, 0x6000))), ["strange"], id="many-distinct-words"),
        pytest.param("zebrafish \ud83d", ["strange"], id="half-a-surrogate-pair"),
        pytest.param("zebrafish \x00 \x1b[31m", ["strange"], id="control-characters"),
        pytest.param("\U0001f600", ["strange"], id="emoji"),
        pytest.param("x" * 100_000, [], id="one-long-word"),
    ],
)
def test_no_query_hurts(searcher, query, finds):
    assert [hit.passage.id for hit in searcher.search([query], 3)[0]] == finds
    assert [hit.passage.id for hit in searcher.search([query, "unique3"], 3)[0]] == finds


def test_queries_are_cut(searcher):
    assert searcher.search(["a" * MAX_QUERY_CHARACTERS + " zebrafish"], 1) == [[]]


def test_threads_get_their_own_results(searcher):
    def ask(number: int) -> set[str]:
        return {searcher.search([f"unique{number}"], 3)[0][0].passage.id for _ in range(20)}

    for _ in range(5):
        # Threads that end: each pool has its own.
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == [{f"d{number:02d}"} for number in range(8)]


def test_is_asked_concurrently(searcher):
    assert isinstance(searcher, Searcher)
    with ConcurrentSearch(searcher, 1) as client:
        futures = [client.submit(f"unique{number}") for number in range(40)]
        assert [future.result()[0].passage.id for future in futures] == [f"d{number:02d}" for number in range(40)]


def test_what_is_no_index_is_named(tmp_path):
    with pytest.raises(ManifestError, match="cannot be opened"):
        LuceneSearcher(tmp_path, "0" * 64)
