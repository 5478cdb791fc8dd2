"""The files of an evaluation: written once, read back to make its report again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.contracts.errors import ManifestError
from components.evaluate.assessment import Answers, Evaluation
from components.evaluate.predictions import LATENCIES_NAME, read_predictions, write_predictions
from components.evaluate.scores import by_method, scores_json
from components.report.episodes import EpisodeView


@dataclass(frozen=True)
class Outputs:
    """Names of the files of an evaluation."""

    predictions: str = "predictions.parquet"
    latencies: str = LATENCIES_NAME
    scores: str = "scores.json"
    report: str = "report.html"
    episodes: str = "episodes.json"


OUTPUTS = Outputs()


def write_outputs(folder: Path, answers: Answers, evaluation: Evaluation, html: str) -> None:
    """Write the files of an evaluation into the new `folder`."""
    folder.mkdir(parents=True)
    write_predictions([row for rows in answers.rows.values() for row in rows], folder / OUTPUTS.predictions)
    scores = scores_json(evaluation.scores, evaluation.averages, evaluation.differences, answers.wall_s)
    _write_json(folder / OUTPUTS.scores, scores)
    _write_json(folder / OUTPUTS.episodes, [view.model_dump(mode="json") for view in answers.episodes])
    (folder / OUTPUTS.report).write_text(html, encoding="utf-8")


def read_answers(folder: Path) -> Answers:
    """Return the answers that `write_outputs` left in `folder`.

    Raises:
        ManifestError: a file is malformed.
    """
    try:
        rows = by_method(read_predictions(folder / OUTPUTS.predictions))
        wall_s = {method: float(seconds) for method, seconds in _read_json(folder / OUTPUTS.scores)["wall_s"].items()}
        episodes = [EpisodeView.model_validate(view) for view in _read_json(folder / OUTPUTS.episodes)]
        return Answers(rows, {method: wall_s[method] for method in rows}, episodes)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{folder} is no evaluation: {error!r}", remedy="evaluate again") from None


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
