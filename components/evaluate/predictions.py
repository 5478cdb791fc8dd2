"""One row per method and question: what was answered and how it scores; the Parquet file of the step.

Nothing in it depends on time: two evaluations of one model write the same bytes.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.answer import exact_match, f1
from components.contracts.episode import Episode, StopReason
from components.contracts.question import Question

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("set_name", pa.string()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("golden_answers", pa.list_(pa.string())),
        ("prediction", pa.string()),
        ("em", pa.float64()),
        ("f1", pa.float64()),
        ("num_searches", pa.int32()),
        ("valid_action_frac", pa.float64()),
        ("finished", pa.bool_()),
        ("num_model_tokens", pa.int32()),
        ("stop_reason", pa.string()),
        ("search_error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered question; the fields are the columns of the file."""

    method: str
    set_name: str
    question_id: str
    question: str
    golden_answers: tuple[str, ...]
    prediction: str
    """Empty also when no answer came: `finished` tells the two apart."""
    em: float
    f1: float
    num_searches: int
    valid_action_frac: float
    finished: bool
    num_model_tokens: int
    stop_reason: str
    search_error: str
    """What the search engine said when it failed after its retries; the question then counts as wrong."""


def score_episode(method: str, question: Question, episode: Episode) -> Prediction:
    """Return the scored row of `episode`; without an answer, or after a failed search, it scores 0."""
    errors = [search.error for search in episode.searches if search.error]
    is_finished = episode.stop_reason is StopReason.ANSWERED
    answer = (episode.answer or "") if is_finished else ""
    return Prediction(
        method=method,
        set_name=question.set_name,
        question_id=question.id,
        question=question.question,
        golden_answers=question.golden_answers,
        prediction=answer,
        em=exact_match(answer, question.golden_answers),
        f1=f1(answer, question.golden_answers),
        num_searches=episode.num_searches,
        valid_action_frac=episode.valid_action_frac,
        finished=is_finished,
        num_model_tokens=episode.num_model_tokens,
        stop_reason=episode.stop_reason.value,
        search_error=errors[0] if errors else "",
    )


def predictions_table(predictions: Sequence[Prediction]) -> pa.Table:
    """Return `predictions` in their order as a table of `SCHEMA`."""
    names = [field.name for field in fields(Prediction)]
    columns = zip(*map(_row, predictions), strict=True) if predictions else [()] * len(names)
    return pa.table({name: list(column) for name, column in zip(names, columns, strict=True)}, schema=SCHEMA)


class PredictionsFile:
    """Writes a file of predictions table by table; equal tables give equal bytes. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def append(self, table: pa.Table) -> None:
        """Write the rows of `table`; columns that are not of `SCHEMA` are left out."""
        self._writer.write_table(table.select(SCHEMA.names).replace_schema_metadata(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write `predictions` in their order; equal rows give equal bytes."""
    with PredictionsFile(path) as file:
        file.append(predictions_table(predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Return the rows of a file of predictions, in order."""
    return predictions_of(pq.read_table(path, schema=SCHEMA))


def predictions_of(table: pa.Table) -> list[Prediction]:
    """Return the rows of `table`; columns that are not of `SCHEMA` are left out."""
    rows = table.select(SCHEMA.names).to_pylist()
    return [Prediction(**(row | {"golden_answers": tuple(row["golden_answers"])})) for row in rows]


def _row(prediction: Prediction) -> tuple:
    """Text as UTF-8 can hold it: a lone surrogate in a question becomes a question mark."""
    return tuple(_encodable(value) for value in astuple(prediction))


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value
