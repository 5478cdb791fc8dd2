"""Cuts question sets to size and keeps test, dev and train apart. Equal seeds give equal cuts."""

import random
from collections.abc import Iterable
from typing import Literal

from components.contracts.answer import normalize_answer
from components.contracts.question import Question


def limited(questions: list[Question], limit: int | Literal["all"], seed: int) -> list[Question]:
    """Return at most `limit` of `questions`, drawn by `seed`, in their order."""
    if limit == "all" or len(questions) <= limit:
        return questions
    return _drawn(questions, limit, seed)[0]


def cut_dev(questions: list[Question], num_dev: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Return (train, dev): `num_dev` questions drawn by `seed` and the rest, both in their order."""
    dev, train = _drawn(questions, num_dev, seed)
    return train, dev


def of_kinds(questions: list[Question], kinds: Iterable[str]) -> list[Question]:
    """Return the questions whose kind is among `kinds`; all, when `kinds` says nothing about a set that has kinds."""
    named_sets = {kind.partition("/")[0] for kind in kinds}
    return [q for q in questions if q.set_name not in named_sets or q.kind in kinds or "kind" not in q.metadata]


def without(questions: list[Question], others: Iterable[Question]) -> list[Question]:
    """Return the questions whose normalised text is none of the `others`'."""
    taken = {text_key(question.question) for question in others}
    return [question for question in questions if text_key(question.question) not in taken]


def text_key(text: str) -> str:
    """Return what two questions share that are the same but for case, punctuation, articles and white space."""
    return normalize_answer(text) or text.casefold().strip()


def _drawn(questions: list[Question], count: int, seed: int) -> tuple[list[Question], list[Question]]:
    # The set is part of the seed, so that a further set does not change the draw of this one.
    rng = random.Random(f"{seed} {questions[0].set_name if questions else ''}")
    chosen = set(rng.sample(range(len(questions)), min(count, len(questions))))
    inside = [question for i, question in enumerate(questions) if i in chosen]
    outside = [question for i, question in enumerate(questions) if i not in chosen]
    return inside, outside
