"""From answers to everything the report shows; the same for answers just given and for stored ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.agent.config import LoopConfig
from components.contracts.manifest import Manifest
from components.contracts.statistics import PairedDifference
from components.evaluate.asked import Asked, asked_of
from components.evaluate.contrasts import Contrast, contrast
from components.evaluate.cost import AnswerCost, answer_cost
from components.evaluate.predictions import Prediction
from components.evaluate.scores import Score, compare, score_average, score_sets
from components.evaluate.training_record import training_record
from components.report.episodes import EpisodeView

QUESTIONS_SHOWN = 4
"""Won, and as many lost, questions of each baseline that the report prints."""


@dataclass(frozen=True)
class Answers:
    """What the methods left behind, in the order of the table's rows."""

    rows: Mapping[str, Sequence[Prediction]]
    wall_s: Mapping[str, float]
    episodes: Sequence[EpisodeView]
    """Some of Search-R1's."""


@dataclass(frozen=True)
class Bootstrap:
    """How sure the numbers are made; the seed also draws the questions shown."""

    seed: int
    resamples: int


@dataclass(frozen=True)
class Evaluation:
    """Everything the page shows; mappings are keyed by method, in the order of the table's rows."""

    scores: Mapping[str, Mapping[str, Score]]
    averages: Mapping[str, Score]
    differences: Mapping[str, PairedDifference]
    """Search-R1 minus each other method."""
    contrasts: Mapping[str, Contrast]
    """Question by question, against each other method."""
    costs: Mapping[str, AnswerCost]
    bootstrap: Bootstrap
    asked: Mapping[str, Asked]
    """Set name -> how many of its questions were asked."""
    in_domain: frozenset[str]
    max_searches: int
    episodes: Sequence[EpisodeView]
    """Of the evaluation, then of training."""
    training_metrics: Sequence[Mapping[str, float]]
    chosen_step: int | None
    lineage: Sequence[tuple[str, Manifest]]

    @property
    def set_names(self) -> list[str]:
        """The sets, in the order of the table's columns."""
        return list(self.scores["search_r1"])


def assess(
    answers: Answers,
    bootstrap: Bootstrap,
    loop: LoopConfig,
    checkpoint: Manifest,
    questions: Manifest,
    lineage: Sequence[tuple[str, Manifest]],
) -> Evaluation:
    """Return the numbers and everything else the page shows, the training record of `checkpoint` included.

    Raises:
        ManifestError: the training record is missing, changed or malformed.
        StorageError: the storage refuses.
    """
    ours = answers.rows["search_r1"]
    others = {method: rows for method, rows in answers.rows.items() if method != "search_r1"}
    seed, resamples = bootstrap.seed, bootstrap.resamples
    record = training_record(checkpoint)
    return Evaluation(
        scores={method: score_sets(rows, seed, resamples) for method, rows in answers.rows.items()},
        averages={method: score_average(rows, seed, resamples) for method, rows in answers.rows.items()},
        differences={method: compare(ours, rows, seed, resamples) for method, rows in others.items()},
        contrasts={method: contrast(ours, rows, QUESTIONS_SHOWN, seed) for method, rows in others.items()},
        costs={method: answer_cost(rows, answers.wall_s[method]) for method, rows in answers.rows.items()},
        bootstrap=bootstrap,
        asked=asked_of(questions, ours),
        in_domain=frozenset(questions.metadata.get("train_sets", ())),
        max_searches=loop.max_searches,
        episodes=[*answers.episodes, *record.episodes],
        training_metrics=record.metrics,
        chosen_step=checkpoint.metadata.get("best_step"),
        lineage=lineage,
    )
