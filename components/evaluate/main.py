"""Evaluate a checkpoint against its baselines on every question set and publish predictions, scores and the report."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import get_args

from components.agent.config import LoopConfig
from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.contracts.question import Question
from components.contracts.step import Step, StepContext, StepResult
from components.evaluate.answering import MethodResult, answer_all
from components.evaluate.baselines.model import OpenModel
from components.evaluate.card import card, headline_metrics
from components.evaluate.config import EvaluateConfig, Method
from components.evaluate.evaluation_page import Evaluation, evaluation_page
from components.evaluate.methods import METHODS, ModelInput
from components.evaluate.models import open_model
from components.evaluate.origins import origins
from components.evaluate.predictions import write_predictions
from components.evaluate.question_sets import read_question_sets
from components.evaluate.scores import compare, score_average, score_sets, scores_json
from components.search.concurrent import ConcurrentSearch
from components.search.open import open_searcher
from components.search.protocol import Searcher
from components.storage import fetch, publish
from components.tracking import METRICS_NAME, open_tracker, read_metrics

ModelOpener = Callable[[ModelInput, LoopConfig], OpenModel]


@dataclass(frozen=True)
class Outputs:
    """Names of the files of an evaluation."""

    predictions: str = "predictions.parquet"
    scores: str = "scores.json"
    report: str = "report.html"
    episodes: str = "episodes.json"


OUTPUTS = Outputs()


def run(
    config: EvaluateConfig,
    context: StepContext,
    base_model: Manifest,
    index: Manifest,
    questions: Manifest,
    checkpoint: Manifest,
    **baselines: Manifest,
) -> StepResult:
    """Answer every test question with every method and return the published evaluation.

    `baselines` are the checkpoints of the trained baselines under the names in `ModelInput`; those whose
    methods are not asked for may be missing.

    Raises:
        ManifestError: an input is damaged, missing or unknown, or a checkpoint does not say how it was trained.
        QuestionError: there are no test questions, or one is malformed.
        SearchError: the search engine does not start, or too many questions lost a search.
        StorageError: the storage refuses.
        TrackingError: a tracking server is configured and cannot be reached.
    """
    models = _models(config, {"checkpoint": checkpoint, "base_model": base_model, **baselines})
    inputs = models | {"index": index, "questions": questions}
    # The base model answers in the loop its successor was trained in.
    loops = {name: _loop_of(checkpoint if name == "base_model" else made) for name, made in models.items()}
    question_sets = read_question_sets(fetch(questions), config.max_questions_per_set)
    tags = {"pipeline.step": "evaluate"} | {f"{name}.digest": made.digest for name, made in inputs.items()}

    def opener(name: ModelInput, loop: LoopConfig) -> OpenModel:
        return open_model(fetch(models[name]) / "model", loop.max_context_tokens, config)

    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        folder = Path(scratch) / "evaluation"
        with open_tracker("evaluate", Path(scratch) / "tracking", tags, config.model_dump(mode="json")) as tracker:
            results = answer_methods(config, question_sets, opener, loops, open_searcher(index))
            evaluation = assess(config, results, checkpoint, questions, origins(inputs, context.storage_root))
            html, headline = evaluation_page(evaluation), headline_metrics(evaluation)
            write_outputs(folder, results, evaluation, html)
            tracker.log(evaluation.chosen_step or 0, headline)
            tracker.log_artifact(folder / OUTPUTS.report, "report")
            manifest = publish(
                folder,
                storage_root=context.storage_root,
                kind="evaluation",
                produced_by=context.produced_by(),
                inputs=inputs,
                counts={"questions": evaluation.averages["search_r1"].n, "methods": len(results)},
                metadata={"loop": loops["checkpoint"].model_dump(mode="json"), "headline": headline},
                mlflow=tracker.mlflow,
            )
    return StepResult(manifest, card(evaluation, inputs), headline, html)


def answer_methods(
    config: EvaluateConfig,
    question_sets: Mapping[str, Sequence[Question]],
    open_model_of: ModelOpener,
    loops: Mapping[ModelInput, LoopConfig],
    searcher: Searcher,
) -> dict[Method, MethodResult]:
    """Return method -> its answers to all questions, set by set, in the order of `config.methods`.

    Methods that share weights run one after the other, so that one model at a time is in memory.
    """
    asked = [question for questions in question_sets.values() for question in questions]
    results: dict[Method, MethodResult] = {}
    by_weights = sorted(config.methods, key=lambda method: list(loops).index(METHODS[method].model))
    with ConcurrentSearch(searcher, loops["checkpoint"].top_k) as client:
        for model_name, methods in groupby(by_weights, key=lambda method: METHODS[method].model):
            model = open_model_of(model_name, loops[model_name])
            for method in methods:
                results[method] = answer_all(
                    method,
                    asked,
                    model,
                    loops[model_name],
                    client,
                    max_search_failure_frac=config.max_search_failure_frac,
                    budgets=config.budgets,
                    num_views=config.num_report_episodes if method == "search_r1" else 0,
                    seed=config.seed,
                )
            del model
    return {method: results[method] for method in config.methods}


def assess(
    config: EvaluateConfig,
    results: Mapping[Method, MethodResult],
    checkpoint: Manifest,
    questions: Manifest,
    lineage: Sequence[tuple[str, Manifest]],
) -> Evaluation:
    """Return the numbers and everything else the page shows, the training curves of `checkpoint` included."""
    seed, resamples = config.seed, config.bootstrap_resamples
    ours = results["search_r1"]
    return Evaluation(
        scores={method: score_sets(result.rows, seed, resamples) for method, result in results.items()},
        averages={method: score_average(result.rows, seed, resamples) for method, result in results.items()},
        differences={
            method: compare(ours.rows, result.rows, seed, resamples)
            for method, result in results.items()
            if method != "search_r1"
        },
        wall_s={method: result.wall_s for method, result in results.items()},
        in_domain=frozenset(questions.metadata.get("train_sets", ())),
        max_searches=_loop_of(checkpoint).max_searches,
        episodes=ours.views,
        training_metrics=read_metrics(fetch(checkpoint) / METRICS_NAME),
        chosen_step=checkpoint.metadata.get("best_step"),
        lineage=lineage,
    )


def write_outputs(folder: Path, results: Mapping[Method, MethodResult], evaluation: Evaluation, html: str) -> None:
    """Write the four files of an evaluation into `folder`."""
    folder.mkdir(parents=True)
    write_predictions([row for result in results.values() for row in result.rows], folder / OUTPUTS.predictions)
    scores = scores_json(evaluation.scores, evaluation.averages, evaluation.differences, evaluation.wall_s)
    (folder / OUTPUTS.scores).write_text(json.dumps(scores, indent=1), encoding="utf-8")
    views = [view.model_dump(mode="json") for view in evaluation.episodes]
    (folder / OUTPUTS.episodes).write_text(json.dumps(views, indent=1), encoding="utf-8")
    (folder / OUTPUTS.report).write_text(html, encoding="utf-8")


def _models(config: EvaluateConfig, given: dict[str, Manifest]) -> dict[ModelInput, Manifest]:
    if unknown := sorted(set(given) - set(get_args(ModelInput))):
        raise ManifestError(f"Unknown inputs: {', '.join(unknown)}", ", ".join(get_args(ModelInput)))
    needed = {METHODS[method].model for method in config.methods}
    if missing := sorted(needed - set(given)):
        raise ManifestError(
            f"evaluate.methods needs {', '.join(missing)}, which is not among the inputs",
            remedy="give the checkpoint, or leave the method out",
        )
    return {name: given[name] for name in get_args(ModelInput) if name in given}


def _loop_of(checkpoint: Manifest) -> LoopConfig:
    if "loop" not in checkpoint.metadata:
        raise ManifestError(
            f"The checkpoint at {checkpoint.uri} does not say which loop it was trained in", "metadata.loop"
        )
    return LoopConfig.parse(checkpoint.metadata["loop"], where="checkpoint.loop")


step = Step("evaluate", EvaluateConfig, run)
