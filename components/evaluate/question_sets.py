"""The test questions of the questions step, set by set."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from components.contracts.errors import QuestionError
from components.contracts.question import SEVEN_SETS, Question


def read_question_sets(folder: Path, max_per_set: int) -> dict[str, list[Question]]:
    """Return set name -> questions of every `test/<set>.jsonl` below `folder`.

    The seven sets of the paper come first in its order, then custom ones by name. A set with more than
    `max_per_set` questions is cut to those whose ids have the smallest SHA-256, in file order: the same
    questions in every run, whatever the seed and whatever the file is sorted by.

    Raises:
        QuestionError: there is no question, or a line is no question of its set, or an id occurs twice.
    """
    paths = sorted((folder / "test").glob("*.jsonl"), key=lambda path: (_rank(path.stem), path.stem))
    sets = {path.stem: _cut(_read(path), max_per_set) for path in paths}
    if not any(sets.values()):
        raise QuestionError(f"{folder} holds no test questions", "test/<set>.jsonl", "run the questions step again")
    counts = Counter(question.id for questions in sets.values() for question in questions)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise QuestionError(f"Question id {twice[0]!r} occurs twice", "one question per id")
    return {name: questions for name, questions in sets.items() if questions}


def drawn(questions: Sequence[Question], per_set: int, seed: int) -> frozenset[str]:
    """Return the ids of up to `per_set` questions of every set, decided by `seed` and the ids alone."""
    by_set: dict[str, list[str]] = {}
    for question in questions:
        by_set.setdefault(question.set_name, []).append(question.id)
    lots = (sorted(ids, key=lambda name: _hash(f"{seed} {name}"))[:per_set] for ids in by_set.values())
    return frozenset(name for ids in lots for name in ids)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _rank(set_name: str) -> int:
    return SEVEN_SETS.index(set_name) if set_name in SEVEN_SETS else len(SEVEN_SETS)


def _read(path: Path) -> list[Question]:
    questions = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                question = Question.model_validate_json(line)
            except ValidationError as error:
                raise QuestionError(f"{path}, line {number} is no question: {error}") from None
            if question.set_name != path.stem:
                raise QuestionError(f"{path}, line {number} belongs to the set {question.set_name!r}", path.stem)
            # Real sets carry whole articles in their metadata, and no method looks at it.
            questions.append(question.model_copy(update={"metadata": {}}))
    return questions


def _cut(questions: list[Question], max_questions: int) -> list[Question]:
    if len(questions) <= max_questions:
        return questions
    by_hash = sorted(questions, key=lambda question: _hash(question.id))
    kept = {question.id for question in by_hash[:max_questions]}
    return [question for question in questions if question.id in kept]
