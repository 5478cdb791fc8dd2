"""How far BM25 with the question as it stands gets: rank of the first passage that holds a gold answer."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.contracts.question import Question
from components.contracts.statistics import bootstrap_interval
from components.inspect.answers import holds_answer, open_answers
from components.inspect.config import InspectConfig
from components.inspect.progress import counted
from components.search.protocol import Searcher

_QUERIES_AT_ONCE = 64


@dataclass(frozen=True)
class SearchReport:
    """Hits of one set; questions answered by yes or no are left out, as nothing can be found for them."""

    set_name: str
    role: str
    questions: int
    """Questions that can have a hit."""
    in_corpus: int
    """Of these, the ones with a gold answer anywhere in the corpus."""
    asked: int
    """Of these, the ones searched for."""
    hits: dict[int, float]
    """k -> share of the asked questions with a gold answer in one of the k best passages."""
    ci95: dict[int, tuple[float, float]]
    """k -> 95 % bootstrap interval of the share."""


def report_search(
    label: tuple[str, str], questions: Sequence[Question], found: set[str], searcher: Searcher, config: InspectConfig
) -> SearchReport:
    """Return the report of one (role, set); `found` holds the normalised answers that occur in the corpus.

    Raises:
        SearchError: the engine failed.
    """
    role, set_name = label
    searchable = [question for question in questions if open_answers(question)]
    asked = _drawn(searchable, config.asked_questions, f"{config.sample_seed} {role} {set_name}")
    ranks = first_hits(searcher, asked, max(config.top_k), f"inspect: {role}/{set_name}")
    scores = {k: [float(0 < rank <= k) for rank in ranks] for k in sorted(config.top_k)}
    return SearchReport(
        set_name=set_name,
        role=role,
        questions=len(searchable),
        in_corpus=sum(not found.isdisjoint(open_answers(question)) for question in searchable),
        asked=len(asked),
        hits={k: sum(values) / len(values) if values else 0.0 for k, values in scores.items()},
        ci95={k: bootstrap_interval(values) if values else (0.0, 1.0) for k, values in scores.items()},
    )


def first_hits(searcher: Searcher, questions: Sequence[Question], top_k: int, label: str) -> list[int]:
    """Return for each question the rank (from 1) of the first passage with a gold answer, 0 when none has it."""
    ranks = []
    groups = [questions[i : i + _QUERIES_AT_ONCE] for i in range(0, len(questions), _QUERIES_AT_ONCE)]
    for group in counted(groups, f"{label}, groups of {_QUERIES_AT_ONCE}", len(groups)):
        for question, hits in zip(group, searcher.search([q.question for q in group], top_k), strict=True):
            answers = open_answers(question)
            places = (i for i, hit in enumerate(hits, start=1) if holds_answer(hit.passage.contents, answers))
            ranks.append(next(places, 0))
    return ranks


def _drawn(questions: list[Question], limit: int | Literal["all"], seed: str) -> list[Question]:
    if limit == "all" or len(questions) <= limit:
        return questions
    chosen = random.Random(seed).sample(range(len(questions)), limit)
    return [questions[place] for place in sorted(chosen)]
