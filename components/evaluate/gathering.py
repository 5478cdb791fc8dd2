"""Puts the kept answers of all ranks together, in the order of the questions."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from components.contracts.errors import SearchError
from components.contracts.question import Question
from components.evaluate.chunks import cut
from components.evaluate.config import Method
from components.evaluate.job import Job
from components.evaluate.kept_answers import KeptAnswers
from components.evaluate.predictions import SCHEMA, Prediction
from components.evaluate.sample import choose_rows
from components.report.episodes import EpisodeView


@dataclass
class MethodResult:
    """What a method left behind: a row per question, in order, and some episodes to show."""

    rows: list[Prediction]
    wall_s: float
    """Seconds of answering, those of all ranks added up."""
    views: list[EpisodeView] = field(default_factory=list)


def gather(job: Job, questions: Sequence[Question]) -> dict[Method, MethodResult]:
    """Return what every method answered, in the order of the config.

    Raises:
        ManifestError: an answer is missing.
        SearchError: too many questions of a method lost a search.
    """
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        return {method: _gathered(job, method, questions, Path(scratch)) for method in job.config.methods}


def _gathered(job: Job, method: Method, questions: Sequence[Question], scratch: Path) -> MethodResult:
    kept = KeptAnswers(job.answers_uri(method), scratch / method)
    result, views = MethodResult([], 0.0), {}
    for chunk in cut(method, len(questions), job.config.questions_per_chunk):
        asked = questions[chunk.start : chunk.stop]
        table, wall_s = kept.read(chunk, [question.id for question in asked])
        rows = _rows(table, asked, method)
        found = zip(rows, table["view"].to_pylist(), strict=True)
        views |= {row.question_id: view for row, view in found if view is not None}
        result.rows += rows
        result.wall_s += wall_s
    _check_failures(method, result.rows, job.config.max_search_failure_frac)
    candidates = [row for row in result.rows if row.question_id in views]
    shown = choose_rows(candidates, job.config.num_report_episodes, job.config.seed)
    result.views = [EpisodeView.model_validate_json(views[row.question_id]) for row in shown]
    return result


def _rows(table: pa.Table, asked: Sequence[Question], method: Method) -> list[Prediction]:
    # What all methods have in common is held in memory once.
    names = [name for name in (*SCHEMA.names, "latency_s") if name not in ("golden_answers", "question", "method")]
    records = table.select(names).to_pylist()
    return [
        Prediction(
            **record
            | {
                "method": method,
                "set_name": question.set_name,
                "question_id": question.id,
                "question": question.question,
                "golden_answers": question.golden_answers,
            }
        )
        for record, question in zip(records, asked, strict=True)
    ]


def _check_failures(method: Method, rows: Sequence[Prediction], max_frac: float) -> None:
    num_failed = sum(bool(row.search_error) for row in rows)
    if num_failed > max_frac * len(rows):
        raise SearchError(
            f"{method}: {num_failed} of {len(rows)} questions lost a search, more than the allowed share of "
            f"{max_frac} (evaluate.max_search_failure_frac); evaluate again to ask them once more"
        )
