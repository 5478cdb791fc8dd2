"""What a search engine promises (`Searcher`) and what a search loop asks for (`SearchClient`)."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from components.contracts.passage import ScoredPassage

MAX_QUERY_CHARACTERS = 1000
"""Longer queries are cut, whoever answers: Lucene refuses more than 1,024 distinct words, and a word has at least one
character."""


def plain_query(query: str) -> str:
    """Return the query cut and free of halves of surrogate pairs, which neither Java nor UTF-8 can take over."""
    return query[:MAX_QUERY_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


@runtime_checkable
class Searcher(Protocol):
    """Answers queries synchronously; safe to call from several threads at once."""

    @property
    def digest(self) -> str:
        """Content digest of the index that answers: equal digests give equal results."""
        ...

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Return one list per query, in order, each best first and at most `top_k` long.

        An empty inner list says that nothing matched. A failure is never an empty list.

        Raises:
            SearchError: the engine failed; no result of the call may be used.
        """
        ...


@runtime_checkable
class SearchClient(Protocol):
    """Takes queries one by one and answers later."""

    def submit(self, query: str) -> "Future[list[ScoredPassage]]":
        """Return a future with the passages for `query`, best first; an empty list says that nothing matched.

        The future raises SearchError when the search failed. Equal queries may share one future and one
        list: treat both as read-only.
        """
        ...
