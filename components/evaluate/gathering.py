"""Puts the kept answers of all ranks together: one file of predictions in order, and the numbers it is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.errors import SearchError
from components.contracts.question import Question
from components.evaluate.chunks import cut
from components.evaluate.config import Method
from components.evaluate.job import Job
from components.evaluate.kept_answers import KeptAnswers
from components.evaluate.predictions import Prediction, PredictionsFile, predictions_of
from components.evaluate.sample import choose_rows
from components.evaluate.scores import Outcomes
from components.report.episodes import EpisodeView

_TIMES = ["method", "question_id", "latency_s"]


@dataclass
class MethodResult:
    """What a method left behind."""

    outcomes: Outcomes
    wall_s: float
    """Seconds of answering, those of all ranks added up."""
    views: list[EpisodeView] = field(default_factory=list)
    """Some episodes to show."""


def gather(
    job: Job, questions: Sequence[Question], predictions: Path, latencies: Path, scratch: Path
) -> dict[Method, MethodResult]:
    """Write all predictions and their latencies, methods in the config's order, and return what they come to.

    One chunk at a time is in memory; of every question its numbers stay.

    Raises:
        ManifestError: an answer is missing.
        SearchError: too many questions of a method lost a search.
    """
    results: dict[Method, MethodResult] = {}
    schema = pa.schema([(name, pa.float64() if name == "latency_s" else pa.string()) for name in _TIMES])
    with PredictionsFile(predictions) as rows, pq.ParquetWriter(latencies, schema, compression="zstd") as times:
        for method in job.config.methods:
            kept = KeptAnswers(job.answers_uri(method), scratch / method)
            outcomes, wall_s, candidates = [], 0.0, {}
            for chunk in cut(method, len(questions), job.config.questions_per_chunk):
                ids = [question.id for question in questions[chunk.start : chunk.stop]]
                table, seconds = kept.read(chunk, ids)
                rows.append(table)
                times.write_table(table.select(_TIMES))
                outcomes.append(Outcomes.of(table))
                wall_s += seconds
                candidates |= _with_views(table)
            whole = Outcomes.joined(outcomes)
            _check_failures(method, whole, job.config.max_search_failure_frac)
            results[method] = MethodResult(whole, wall_s, _shown(candidates, job))
    return results


def _with_views(table: pa.Table) -> dict[str, tuple[Prediction, str]]:
    shown = table.filter(table["view"].is_valid())
    views = shown["view"].to_pylist()
    return {row.question_id: (row, view) for row, view in zip(predictions_of(shown), views, strict=True)}


def _shown(candidates: dict[str, tuple[Prediction, str]], job: Job) -> list[EpisodeView]:
    rows = [row for row, _ in candidates.values()]
    chosen = choose_rows(rows, job.config.num_report_episodes, job.config.seed)
    return [EpisodeView.model_validate_json(candidates[row.question_id][1]) for row in chosen]


def _check_failures(method: Method, outcomes: Outcomes, max_frac: float) -> None:
    num_failed = int(outcomes.search_failed.sum())
    if num_failed > max_frac * len(outcomes):
        raise SearchError(
            f"{method}: {num_failed} of {len(outcomes)} questions lost a search, more than the allowed share of "
            f"{max_frac} (evaluate.max_search_failure_frac); evaluate again to ask them once more"
        )
