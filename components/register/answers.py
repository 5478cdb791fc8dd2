"""The trained model's scored answers, read from an evaluation's predictions."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.storage import fetch

PREDICTIONS_NAME = "predictions.parquet"
METHOD = "search_r1"
"""Row of the evaluation that belongs to the checkpoint itself."""
_COLUMNS = ["set_name", "question_id", "question", "golden_answers", "em", "num_searches"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked, and whether it was answered right."""

    set_name: str
    question: str
    golden_answers: tuple[str, ...]
    em: float
    num_searches: int

    def asks_the_same(self, other: "Answer") -> bool:
        """Return whether both belong to one question: same set, same words, same gold answers."""
        mine, theirs = (self.set_name, self.question), (other.set_name, other.question)
        return mine == theirs and sorted(self.golden_answers) == sorted(other.golden_answers)


Answers = Mapping[str, Answer]
"""Question id -> answer, sorted by id."""


def read_answers(evaluation: Manifest) -> Answers:
    """Return the checkpoint's own answers in `evaluation`.

    Raises:
        ManifestError: the evaluation is damaged, lacks a column, or holds no answer of the checkpoint.
        StorageError: the storage refuses.
    """
    path = fetch(evaluation) / PREDICTIONS_NAME
    try:
        rows = pq.read_table(path, columns=_COLUMNS, filters=[("method", "==", METHOD)]).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ManifestError(f"{evaluation.uri}/{PREDICTIONS_NAME} cannot be read: {error}") from error
    if not rows:
        raise ManifestError(
            f"{evaluation.uri}/{PREDICTIONS_NAME} has no answers of {METHOD}",
            remedy=f"keep {METHOD} among evaluate.methods",
        )
    answers = {}
    for row in sorted(rows, key=lambda row: row["question_id"]):
        question_id = row.pop("question_id")
        answers[question_id] = Answer(**(row | {"golden_answers": tuple(row["golden_answers"])}))
    return answers
