"""Reads questions in the FlashRAG layout (`question, golden_answers, metadata`) and gives them ids of their own."""

import json
from pathlib import Path
from typing import Any

from components.contracts.errors import QuestionError
from components.contracts.question import Question

ALLOWED = '{"question": a text, "golden_answers": a list with at least one text, "metadata": an object or absent}'
SHOWN_PROBLEMS = 20


class _Malformed(Exception):
    """What is wrong with one line."""


def read_questions(path: Path, set_name: str, prefix: str = "") -> list[Question]:
    """Return the questions of `path` with the ids `{set_name}:{prefix}{index}`, index counted from 0 over all lines.

    The source's own id is kept as `source_id` in the metadata.

    Raises:
        QuestionError: a line is no question or has no golden answer; file, line and remedy are named.
    """
    questions: list[Question] = []
    problems: list[str] = []
    num_problems = index = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                questions.append(_question(line, set_name, f"{set_name}:{prefix}{index}"))
            except _Malformed as problem:
                num_problems += 1
                if len(problems) < SHOWN_PROBLEMS:
                    problems.append(f"{path}, line {number}: {problem}")
            index += 1
    if problems:
        more = [f"and {num_problems - len(problems)} more"] * (num_problems > len(problems))
        raise QuestionError(
            "\n  ".join([f"{num_problems} malformed questions:", *problems, *more]),
            ALLOWED,
            "give every question at least one golden answer, or delete the line",
        )
    if not questions:
        raise QuestionError(f"{path} holds no question", ALLOWED)
    return questions


def _question(line: bytes, set_name: str, identifier: str) -> Question:
    record = _record(line)
    text, answers, metadata = record.get("question"), record.get("golden_answers"), record.get("metadata")
    if not isinstance(text, str) or not text.strip():
        raise _Malformed("no question text")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise _Malformed("golden_answers is not a list of texts" if answers is not None else "no golden_answers")
    answers = [answer.strip() for answer in answers if answer.strip()]
    if not answers:
        raise _Malformed("no golden answer that is not blank")
    if not isinstance(metadata, dict | None):
        raise _Malformed("metadata is not an object")
    own = {"source_id": str(record["id"])} if "id" in record else {}
    try:
        question = Question(
            id=identifier,
            set_name=set_name,
            question=text.strip(),
            golden_answers=tuple(dict.fromkeys(answers)),
            metadata=(metadata or {}) | own,
        )
        question.model_dump_json()
    except ValueError:
        raise _Malformed("holds half of a surrogate pair") from None
    return question


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise _Malformed(f"not an object but {type(record).__name__}")
    return record
