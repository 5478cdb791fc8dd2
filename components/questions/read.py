"""Reads questions in the FlashRAG layout (`question, golden_answers, metadata`) and gives them ids of their own.

The ready-made training Parquet of Search-R1 has the same three columns beside those of its trainer; its gold
answers may stand in `reward_model.ground_truth.target` alone.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contracts.errors import QuestionError
from components.contracts.question import Question
from components.questions.records import Malformed, read_records

ALLOWED = '{"question": a text, "golden_answers": a list with at least one text, "metadata": an object or absent}'
SHOWN_PROBLEMS = 20
MAX_METADATA_CHARACTERS = 2_000
"""Longer metadata entries are left out: HotpotQA's carry ten Wikipedia paragraphs for every question."""


@dataclass
class QuestionFile:
    """The questions of one set in one file, and what was left out."""

    questions: list[Question] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """The first malformed rows: file, line, reason."""
    num_malformed: int = 0

    def report(self) -> str:
        """Return the count of malformed rows and the first of them as text."""
        more = self.num_malformed - len(self.problems)
        lines = [f"{self.num_malformed} malformed questions:", *self.problems]
        return "\n  ".join(lines + [f"and {more} more"] * (more > 0))


def read_questions(path: Path, set_name: str, prefix: str = "", max_malformed: int = 0) -> QuestionFile:
    """Return the set's questions in `path`, with the ids `{set_name}:{prefix}{index}`, counted from 0 over all rows.

    The source's own id is kept as `source_id` in the metadata.

    Raises:
        QuestionError: more than `max_malformed` rows are no question or have no golden answer (file, line and
            remedy are named), or none is one.
    """
    found = QuestionFile()
    for index, (number, record) in enumerate(read_records(path, set_name)):
        made = record if isinstance(record, Malformed) else _question(record, set_name, f"{set_name}:{prefix}{index}")
        if isinstance(made, Question):
            found.questions.append(made)
            continue
        found.num_malformed += 1
        if len(found.problems) < SHOWN_PROBLEMS:
            found.problems.append(f"{path}, line {number}: {made.reason}")
    if found.num_malformed > max_malformed:
        raise QuestionError(
            found.report(),
            ALLOWED,
            "give every question at least one golden answer, or delete the line; questions.max_malformed_rows "
            f"(now {max_malformed}) leaves such rows out",
        )
    if not found.questions:
        raise QuestionError(f"{path} holds no question", ALLOWED)
    return found


def _question(record: dict[str, Any], set_name: str, identifier: str) -> Question | Malformed:
    text, metadata = record.get("question"), record.get("metadata")
    if not isinstance(text, str) or not text.strip():
        return Malformed("no question text")
    answers = _golden_answers(record)
    if isinstance(answers, Malformed):
        return answers
    if not isinstance(metadata, dict | None):
        return Malformed("metadata is not an object")
    own = {"source_id": str(record["id"])} if "id" in record else {}
    try:
        question = Question(
            id=identifier,
            set_name=set_name,
            question=text.strip(),
            golden_answers=answers,
            metadata=_bounded(metadata or {}) | own,
        )
        question.model_dump_json()
    except ValueError:
        return Malformed("holds half of a surrogate pair")
    return question


def _golden_answers(record: dict[str, Any]) -> tuple[str, ...] | Malformed:
    given = record.get("golden_answers", _target(record))
    if given is None:
        return Malformed("no golden_answers")
    if not isinstance(given, list) or not all(isinstance(answer, str) for answer in given):
        return Malformed("golden_answers is not a list of texts")
    answers = tuple(dict.fromkeys(answer.strip() for answer in given if answer.strip()))
    return answers or Malformed("no golden answer that is not blank")


def _target(record: dict[str, Any]) -> Any:
    """Return what Search-R1's trainer compares with; None when the row has no such column."""
    reward = record.get("reward_model")
    truth = reward.get("ground_truth") if isinstance(reward, dict) else None
    target = truth.get("target") if isinstance(truth, dict) else None
    return [target] if isinstance(target, str) else target


def _bounded(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in metadata.items() if len(json.dumps(value, default=str)) <= MAX_METADATA_CHARACTERS
    }
