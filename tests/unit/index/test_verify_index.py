"""A fresh index is proven: counts and golden queries."""

import json
from pathlib import Path

import pytest

from components.contracts.errors import SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.index.config import IndexConfig
from components.index.verify import ask_golden_queries, verify_count


class FirstWordSearcher:
    """Finds the passages that share the query's first word, in the order of the corpus."""

    def __init__(self, rows: list[dict], forgotten: int = 0) -> None:
        self.passages = [Passage(row["id"], row["contents"]) for row in rows[forgotten:]]
        self.num_passages = len(self.passages)

    def search(self, queries, top_k):
        found = [[p for p in self.passages if p.title.split()[0] == query.split()[0]] for query in queries]
        return [[ScoredPassage(passage, 1.0) for passage in hits[:top_k]] for hits in found]


ROWS = [{"id": f"p{i}", "contents": f'"Title{i} x"\nText {i} goes on and on.'} for i in range(30)]


def corpus_files(folder: Path, rows: list[dict]) -> list[Path]:
    files = [folder / "corpus-00000.jsonl", folder / "corpus-00001.jsonl"]
    for path, part in zip(files, (rows[:10], rows[10:]), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
    return files


def test_count_must_match():
    verify_count(FirstWordSearcher(ROWS), 30)
    with pytest.raises(SearchError, match="holds 29 passages, the corpus 30"):
        verify_count(FirstWordSearcher(ROWS, forgotten=1), 30)


def test_drawn_passages_find_themselves(tmp_path):
    files, config = corpus_files(tmp_path, ROWS), IndexConfig(golden_queries=12)
    golden = ask_golden_queries(FirstWordSearcher(ROWS), files, len(ROWS), config)
    assert len({entry.passage_id for entry in golden}) == 12
    assert all(entry.rank == 1 for entry in golden)
    assert golden[0].query.startswith("Title") and "goes on" in golden[0].query
    assert golden == ask_golden_queries(FirstWordSearcher(ROWS), files, len(ROWS), config)
    assert set(golden[0].as_record()) == {"query", "passage_id", "rank"}


def test_a_small_corpus_is_asked_whole(tmp_path):
    golden = ask_golden_queries(
        FirstWordSearcher(ROWS), corpus_files(tmp_path, ROWS), 30, IndexConfig(golden_queries=99)
    )
    assert len(golden) == 30


def test_only_so_many_hits_are_looked_at(tmp_path):
    rows = [{"id": f"p{i}", "contents": f'"Same {i}"\nText {i}.'} for i in range(20)]
    config = IndexConfig(golden_queries=20, golden_top_k=10, golden_min_frac=0.5)
    golden = ask_golden_queries(FirstWordSearcher(rows), corpus_files(tmp_path, rows), 20, config)
    assert [entry.rank for entry in golden] == [*range(1, 11), *[0] * 10]


def test_equal_contents_count_as_found(tmp_path):
    rows = [{"id": f"copy{i}", "contents": ROWS[0]["contents"]} for i in range(20)]
    config = IndexConfig(golden_queries=20, golden_top_k=1, golden_min_frac=1.0)
    assert all(
        entry.rank for entry in ask_golden_queries(FirstWordSearcher(rows), corpus_files(tmp_path, rows), 20, config)
    )


@pytest.mark.parametrize(
    ("min_frac", "passes"), [pytest.param(0.5, True, id="above"), pytest.param(0.9, False, id="below")]
)
def test_too_few_found_stop_the_step(tmp_path, min_frac, passes):
    config = IndexConfig(golden_queries=30, golden_min_frac=min_frac)
    searcher, files = FirstWordSearcher(ROWS, forgotten=10), corpus_files(tmp_path, ROWS)
    if passes:
        golden = ask_golden_queries(searcher, files, 30, config)
        assert sum(entry.rank == 0 for entry in golden) == 10
    else:
        with pytest.raises(SearchError, match="10 of 30 golden queries fail"):
            ask_golden_queries(searcher, files, 30, config)
