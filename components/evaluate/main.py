"""Evaluate a checkpoint against its baselines on every question set and publish predictions, scores and the report."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from components.agent.config import LoopConfig
from components.contracts.errors import ConfigError, ManifestError
from components.contracts.manifest import Manifest
from components.contracts.step import Step, StepContext, StepResult
from components.evaluate.assessment import Answers, Bootstrap, Evaluation, assess
from components.evaluate.card import card, headline_metrics
from components.evaluate.chunks import launched_rank
from components.evaluate.config import FOREIGN_LOOP, EvaluateConfig, Method
from components.evaluate.evaluation_page import evaluation_page
from components.evaluate.gathering import MethodResult, gather
from components.evaluate.job import Job
from components.evaluate.methods import METHODS, ModelInput
from components.evaluate.origins import origins
from components.evaluate.outputs import OUTPUTS, write_outputs
from components.evaluate.ranks import answer_job
from components.evaluate.request import Request, evaluate_request
from components.evaluate.stored import evaluation_manifest, stored_evaluation
from components.storage import publish
from components.storage.failures import TaskFailures
from components.tracking import open_tracker

__all__ = ["OUTPUTS", "Request", "evaluate_request", "report", "run", "step"]


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

    Finished answers stay in the work prefix: after a kill, and in a later evaluation of the same model, only what is
    missing is asked. `checkpoint` is a checkpoint of ours, or any model (a manifest of the base_model step), which is
    then asked in `config.loop`. `baselines` are the checkpoints of the trained baselines under the names in
    `ModelInput`; those whose methods are not asked for may be missing.

    Raises:
        ManifestError: an input is damaged, missing or unknown, or a checkpoint does not say how it was trained.
        ConfigError: `loop` is set and the checkpoint brings its own, or a question does not fit the context.
        QuestionError: there are no test questions, or one is malformed.
        SearchError: the search engine does not start, or too many questions lost a search.
        RankFailed: one of `config.ranks` processes was killed.
        StorageError: the storage refuses.
        TrackingError: a tracking server is configured and cannot be reached.
        SystemExit: this process is not the first rank of a launcher; its share is answered.
    """
    models = _models(config, {"checkpoint": checkpoint, "base_model": base_model, **baselines})
    inputs = models | {"index": index, "questions": questions}
    # The base model answers in the loop its successor was trained in.
    loops = {name: _loop_of(checkpoint if name == "base_model" else made, config) for name, made in models.items()}
    job = Job(config, models, loops, index, questions, context.storage_root, context.code_sha256)
    asked = job.read_questions()
    tags = {"pipeline.step": "evaluate"} | {f"{name}.digest": made.digest for name, made in inputs.items()}
    if launched_rank().number:
        # The first rank tracks, gathers and publishes.
        answer_job(job, asked)
        raise SystemExit(0)
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        folder = Path(scratch) / "evaluation"
        with open_tracker("evaluate", Path(scratch) / "tracking", tags, config.model_dump(mode="json")) as tracker:
            answer_job(job, asked)
            answers, loop = _answers(gather(job, asked)), loops["checkpoint"]
            bootstrap, chain = Bootstrap(config.seed, config.bootstrap_resamples), origins(inputs, context.storage_root)
            evaluation = assess(answers, bootstrap, loop, checkpoint, questions, chain)
            html, headline = evaluation_page(evaluation), headline_metrics(evaluation)
            write_outputs(folder, answers, evaluation, html)
            tracker.log(evaluation.chosen_step or 0, headline)
            tracker.log_artifact(folder / OUTPUTS.report, "report")
            manifest = publish(
                folder,
                storage_root=context.storage_root,
                kind="evaluation",
                produced_by=context.produced_by(),
                inputs=inputs,
                counts={"questions": evaluation.averages["search_r1"].n, "methods": len(answers.rows)},
                metadata=_facts(loop, evaluation),
                mlflow=tracker.mlflow,
            )
    return StepResult(manifest, card(evaluation, inputs), headline, html)


def report(what: str, runs_dir: Path) -> str:
    """Return the page of a stored evaluation, made again; `what` is a run in `runs_dir` or a manifest's path or URI.

    Raises:
        MissingError: there is no such run or manifest.
        ManifestError: it is no evaluation, or what it points to or was made from is missing or changed.
        StorageError: the storage refuses.
    """
    return evaluation_page(stored_evaluation(evaluation_manifest(what, runs_dir)))


def _answers(results: Mapping[Method, MethodResult]) -> Answers:
    return Answers(
        rows={method: result.rows for method, result in results.items()},
        wall_s={method: result.wall_s for method, result in results.items()},
        episodes=results["search_r1"].views,
    )


def _facts(loop: LoopConfig, evaluation: Evaluation) -> dict[str, Any]:
    """What a reader needs to make the report again, and the headline."""
    return {
        "loop": loop.model_dump(mode="json"),
        "bootstrap": asdict(evaluation.bootstrap),
        "headline": headline_metrics(evaluation),
    }


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


def _loop_of(model: Manifest, config: EvaluateConfig) -> LoopConfig:
    if model.kind != "checkpoint":
        return config.loop
    if "loop" not in model.metadata:
        raise ManifestError(f"The checkpoint at {model.uri} does not say which loop it was trained in", "metadata.loop")
    if config.loop != FOREIGN_LOOP:
        raise ConfigError(
            f"evaluate.loop is set, but the checkpoint at {model.uri} was trained in a loop and brings it",
            "evaluate.loop for models that were not trained here",
            "leave evaluate.loop out",
        )
    return LoopConfig.parse(model.metadata["loop"], where="checkpoint.loop")


step = Step("evaluate", EvaluateConfig, run, TaskFailures.of_environment)
