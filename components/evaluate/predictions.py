"""One row per method and question: what was answered and how it scores; the Parquet file of the step.

Nothing in that file depends on time: two evaluations of one model write the same bytes. What each question took stands
beside it in `latencies.parquet`, row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.answer import exact_match, f1
from components.contracts.episode import Episode, StopReason
from components.contracts.question import Question

LATENCIES_NAME = "latencies.parquet"
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


LATENCIES_SCHEMA = pa.schema([("method", pa.string()), ("question_id", pa.string()), ("latency_s", pa.float64())])


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answered question; the fields but the latency are the columns of the file."""

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
    latency_s: float
    """From the start of its rollout to its end, waiting beside others included."""
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
        latency_s=episode.wall_s,
        num_model_tokens=episode.num_model_tokens,
        stop_reason=episode.stop_reason.value,
        search_error=errors[0] if errors else "",
    )


def predictions_table(predictions: Sequence[Prediction], schema: pa.Schema = SCHEMA) -> pa.Table:
    """Return the columns of `schema` of `predictions`, in their order."""
    columns = {name: [_encodable(getattr(row, name)) for row in predictions] for name in schema.names}
    return pa.table(columns, schema=schema)


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write `predictions` in their order to `path`, and their latencies beside it; equal answers give equal bytes."""
    pq.write_table(predictions_table(predictions), path, compression="zstd")
    latencies = predictions_table(predictions, LATENCIES_SCHEMA)
    pq.write_table(latencies, path.with_name(LATENCIES_NAME), compression="zstd")


def read_predictions(path: Path) -> list[Prediction]:
    """Return the rows that `write_predictions` wrote to `path`, in order."""
    table = pq.read_table(path, schema=SCHEMA)
    latencies = pq.read_table(path.with_name(LATENCIES_NAME), schema=LATENCIES_SCHEMA)
    return predictions_of(table.append_column("latency_s", latencies["latency_s"]))


def predictions_of(table: pa.Table) -> list[Prediction]:
    """Return the rows of a table with the columns of `SCHEMA` and `latency_s`; others are left out."""
    rows = table.select([*SCHEMA.names, "latency_s"]).to_pylist()
    return [Prediction(**(row | {"golden_answers": tuple(row["golden_answers"])})) for row in rows]


def _encodable(value: object) -> object:
    """Text as UTF-8 can hold it: a lone surrogate in a question becomes a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value
