"""Corpus, index and search together, with Pyserini and a real virtual machine."""

import json
import re
import time
from pathlib import Path

import pytest

from components.contracts.answer import normalize_answer
from components.contracts.errors import ManifestError, SearchError
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.corpus import main as corpus_step
from components.corpus.config import CorpusConfig
from components.index import main as index_step
from components.index.build import builder_command, run_child
from components.index.config import IndexConfig
from components.search.concurrent import ConcurrentSearch
from components.search.jvm import child_environment
from components.search.lucene import LuceneSearcher
from components.search.open import open_searcher
from components.storage import fetch

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def build(root: Path, uri: str, **settings) -> tuple[Manifest, Manifest]:
    corpus_config = CorpusConfig(uri=uri, **settings)
    context = StepContext("corpus", f"file://{root}", "0" * 64, corpus_config.sha256())
    corpus = corpus_step.run(corpus_config, context).manifest
    index_config = IndexConfig(threads=1, heap="512m")
    context = StepContext("index", f"file://{root}", "0" * 64, index_config.sha256())
    return corpus, index_step.run(index_config, context, corpus=corpus).manifest


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Manifest, Manifest, dict[str, str]]:
    folder = tmp_path_factory.mktemp("retrieval")
    rows = [{"id": str(i), "contents": f'"Person {i}x"\nPerson {i}x lives in Town {i % 20}y.'} for i in range(200)]
    (folder / "source.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus, index = build(folder / "runs", str(folder / "source.jsonl"), passages_per_file=150)
    return corpus, index, {row["id"]: row["contents"] for row in rows}


def test_the_index_says_what_it_is(small):
    corpus, index, _ = small
    assert (index.kind, index.inputs) == ("index", {"corpus": corpus.digest})
    assert index.counts == {"passages": 200}
    assert (index.metadata["index_kind"], index.metadata["k1"], index.metadata["b"]) == ("bm25", 0.9, 0.4)
    assert len(index.metadata["golden_queries"]) == 20
    assert all(1 <= entry["rank"] <= 10 for entry in index.metadata["golden_queries"])
    assert not any("write.lock" in entry.path for entry in index.files)


def test_every_passage_is_found_by_its_title(small):
    _, index, contents = small
    searcher = open_searcher(index)
    assert searcher.digest == index.digest
    with ConcurrentSearch(searcher, top_k=3) as client:
        futures = {name: client.submit(f"where does person {name}x live?") for name in contents}
        for name, future in futures.items():
            assert future.result()[0].passage.id == name
            assert future.result()[0].passage.contents == contents[name]
    town = searcher.search(["town 7y"], 10)[0]
    assert {int(hit.passage.id) % 20 for hit in town} == {7}


def test_only_indexes_are_opened(small):
    corpus, index, _ = small
    with pytest.raises(ManifestError, match="kind 'corpus'"):
        open_searcher(corpus)
    with pytest.raises(ManifestError, match="kind 'index'"):
        index_step.run(IndexConfig(), StepContext("index", "file:///nowhere", "0" * 64, "0" * 64), corpus=index)
    with pytest.raises(ManifestError, match="'unheard-of'"):
        open_searcher(index.model_copy(update={"metadata": {"index_kind": "unheard-of"}}))


def test_an_index_that_lacks_a_passage_is_not_published(small, tmp_path):
    corpus = small[0].model_copy(update={"counts": {"passages": 201}})
    context = StepContext("index", f"file://{tmp_path}", "0" * 64, "0" * 64)
    with pytest.raises(SearchError, match="holds 200 passages, the corpus 201"):
        index_step.run(IndexConfig(threads=1, heap="512m"), context, corpus=corpus)
    assert not (tmp_path / "store").exists()


def test_an_index_without_stored_passages_is_refused(small, tmp_path):
    folder = fetch(small[0])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.jsonl").symlink_to(folder / "corpus-00000.jsonl")
    command = builder_command(tmp_path / "corpus", tmp_path / "index", IndexConfig(threads=1))
    run_child([part for part in command if part != "--storeRaw"], child_environment("256m"))
    with pytest.raises(ManifestError, match="stores no raw documents"):
        LuceneSearcher(tmp_path / "index", "0" * 64)


MEASURED_ELSEWHERE = {
    "nq": (0.736, 0.836, 0.904),
    "triviaqa": (0.102, 0.138, 0.200),
    "popqa": (0.690, 0.732, 0.772),
    "hotpotqa": (0.406, 0.622, 0.806),
    "2wikimultihopqa": (0.224, 0.484, 0.636),
    "musique": (0.145, 0.275, 0.390),
    "bamboogle": (0.017, 0.033, 0.083),
}
"""hit@1, hit@3, hit@10 of another BM25 (k1 .9, b .4, Porter stemmer) on the same files; its analyzer differs."""


def holds(contents: str, answers: list[str]) -> bool:
    text = f" {normalize_answer(contents)} "
    return any(re.search(rf" {re.escape(answer)} ", text) for answer in answers if answer)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"no real data at {REAL_DATA}")
def test_hits_on_real_questions_agree_with_another_bm25(tmp_path, capsys):
    started_s = time.monotonic()
    _, index = build(tmp_path, str(REAL_DATA / "corpus"))
    build_s = time.monotonic() - started_s
    searcher = open_searcher(index)
    lines = [f"corpus and index of {index.counts['passages']:.0f} passages: {build_s:.1f} s"]
    for name, expected in MEASURED_ELSEWHERE.items():
        rows = [json.loads(line) for line in (REAL_DATA / "questions" / f"{name}.jsonl").open()]
        golden = [[normalize_answer(answer) for answer in row["golden_answers"]] for row in rows]
        kept = [(row, answers) for row, answers in zip(rows, golden, strict=True) if not {"yes", "no"} & set(answers)]
        started_s = time.monotonic()
        found = searcher.search([row["question"] for row, _ in kept], 10)
        rate = len(kept) / (time.monotonic() - started_s)
        ranks = [
            [holds(hit.passage.contents, answers) for hit in hits]
            for hits, (_, answers) in zip(found, kept, strict=True)
        ]
        hit_at = [sum(any(hits[:k]) for hits in ranks) / len(ranks) for k in (1, 3, 10)]
        lines.append(
            f"{name:16} n={len(kept)} hit@1,3,10 = {hit_at[0]:.3f} {hit_at[1]:.3f} {hit_at[2]:.3f}  {rate:.0f} q/s"
        )
        assert hit_at == pytest.approx(expected, abs=0.05), name
    with capsys.disabled():
        print("", *lines, sep="\n")
