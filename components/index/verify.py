"""Proves a fresh index: every passage is in it, and passages drawn from the corpus find themselves."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from components.contracts.errors import SearchError
from components.contracts.passage import Passage
from components.index.config import IndexConfig
from components.search.lucene import LuceneSearcher

_QUERY_WORDS = 10
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """A query made from a passage, and where that passage was found; rank 0 says it was not."""

    query: str
    passage_id: str
    rank: int

    def as_record(self) -> dict[str, Any]:
        """Return the plain mapping that goes into the manifest."""
        return asdict(self)


def verify_count(searcher: LuceneSearcher, expected: int) -> None:
    """Compare the index with the corpus.

    Raises:
        SearchError: passages are missing or too many.
    """
    if searcher.num_passages != expected:
        raise SearchError(f"the index holds {searcher.num_passages:,} passages, the corpus {expected:,}")


def ask_golden_queries(
    searcher: LuceneSearcher, files: Sequence[Path], num_passages: int, config: IndexConfig
) -> list[GoldenQuery]:
    """Return what title and first words of drawn passages find; equal corpora give equal draws.

    A passage with the same contents counts as the passage itself.

    Raises:
        SearchError: fewer than `golden_min_frac` of the passages were found among the first `golden_top_k`.
    """
    drawn = _draw(files, num_passages, config.golden_queries)
    queries = [" ".join([passage.title, *passage.text.split()[:_QUERY_WORDS]]).strip() for passage in drawn]
    found = searcher.search(queries, config.golden_top_k)
    golden = []
    for query, passage, hits in zip(queries, drawn, found, strict=True):
        ranks = [rank for rank, hit in enumerate(hits, 1) if passage in (hit.passage, _twin(hit.passage, passage))]
        golden.append(GoldenQuery(query, passage.id, ranks[0] if ranks else 0))
    missed = [entry for entry in golden if not entry.rank]
    if golden and 1 - len(missed) / len(golden) < config.golden_min_frac:
        shown = "; ".join(f"{entry.query!r} does not find {entry.passage_id!r}" for entry in missed[:_SHOWN])
        raise SearchError(f"{len(missed)} of {len(golden)} golden queries fail: {shown}")
    return golden


def _twin(hit: Passage, passage: Passage) -> Passage:
    """Return the hit under the passage's id: equal exactly when the contents are."""
    return Passage(passage.id, hit.contents)


def _draw(files: Sequence[Path], num_passages: int, count: int) -> list[Passage]:
    chosen = set(random.Random(0).sample(range(num_passages), min(count, num_passages)))
    lines = chain.from_iterable(path.open("rb") for path in files)
    records = [json.loads(line) for number, line in enumerate(lines) if number in chosen]
    return [Passage(record["id"], record["contents"]) for record in records]
