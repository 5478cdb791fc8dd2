"""BM25 over a Lucene index built by Pyserini: same hits and scores as Pyserini's LuceneSearcher.

It talks to Anserini's `SimpleSearcher` directly, because Pyserini's Python wrapper imports torch and more.
Queries are plain words for Anserini's analyzer, never a query language, and come from a model: any text
gives a list of passages, possibly empty.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.contracts.errors import ManifestError, SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.jvm import java_calls, java_class
from components.search.protocol import plain_query

BM25_K1 = 0.9
BM25_B = 0.4


class LuceneSearcher:
    """A `Searcher` over the index in `folder`.

    Args:
        folder: Local folder with the index, built with its raw documents stored.
        digest: Content digest of the index.
        k1: BM25 saturation.
        b: BM25 length normalisation.
        threads: Java threads that share a batch; by default half of the cores this process may use.

    Raises:
        ManifestError: the folder holds no Lucene index, or one without stored documents.
        MissingError: Java or Anserini is not installed.
        SearchError: Java does not start.
    """

    def __init__(self, folder: Path, digest: str, *, k1: float = BM25_K1, b: float = BM25_B, threads: int = 0) -> None:
        self._digest = digest
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) // 2)
        simple_searcher = java_class("io.anserini.search.SimpleSearcher")
        self._list_class = java_class("java.util.ArrayList")
        failure, raw = "", None
        with java_calls():
            try:
                self._java = simple_searcher(str(folder))
                self._java.set_bm25(k1, b)
                self._num_passages = int(self._java.get_total_num_docs())
                raw = self._java.doc(0).get("raw") if self._num_passages else None
            except Exception as error:
                failure = _first_line(error)
        if failure:
            raise ManifestError(
                f"{folder} cannot be opened as a Lucene index: {failure}", remedy="run the index step again"
            )
        if raw is None:
            raise ManifestError(
                f"The index in {folder} stores no raw documents",
                remedy="build it with --storeRaw (the index step does)",
            )

    @property
    def digest(self) -> str:
        """Content digest of the index."""
        return self._digest

    @property
    def num_passages(self) -> int:
        """Passages in the index."""
        return self._num_passages

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Return one list per query, best first, equal scores in the order of the passage ids as text.

        A query without words, or with stop words only, finds nothing.

        Raises:
            SearchError: Lucene failed.
        """
        if not queries:
            return []
        with java_calls():
            try:
                return [_passages(hits) for hits in self._ask([plain_query(query) for query in queries], top_k)]
            except Exception as error:
                # The error itself must not leave: its traceback holds Java objects.
                failure = _first_line(error)
        raise SearchError(f"Lucene failed on {len(queries)} queries: {failure}")

    def close(self) -> None:
        """Release the index files; the searcher answers nothing afterwards."""
        with java_calls():
            self._java.close()

    def _ask(self, queries: list[str], top_k: int) -> list[Any]:
        if len(queries) == 1:
            return [self._java.search(queries[0], top_k)]
        texts, names = self._list_class(), self._list_class()
        for number, query in enumerate(queries):
            texts.add(query)
            names.add(str(number))
        found = self._java.batch_search(texts, names, top_k, min(self._threads, len(queries)))
        return [found.get(str(number)) for number in range(len(queries))]


def _passages(hits: Any) -> list[ScoredPassage]:
    found = []
    for hit in hits:
        record = json.loads(hit.lucene_document.get("raw"))
        found.append(ScoredPassage(Passage(hit.docid, record["contents"]), hit.score))
    return found


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
