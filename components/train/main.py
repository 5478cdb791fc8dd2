"""The train step: from a base model, an index and questions to a published checkpoint."""

import shutil
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from components.agent.engines.load import load_model
from components.agent.engines.open import open_engine
from components.contracts.errors import QuestionError
from components.contracts.manifest import Manifest
from components.contracts.question import Question
from components.contracts.step import Step, StepContext, StepResult
from components.search.concurrent import ConcurrentSearch
from components.search.open import check_reachable, search_client, searcher_for
from components.storage import Storage, fetch, open_storage, publish
from components.storage.failures import TaskFailures
from components.tracking import RUN_FILE, Tracker, open_tracker, silent_tracker
from components.train.checkpoint import Checkpoints, TrainState
from components.train.combinations import check_attention, check_combinations, check_heads
from components.train.config import TrainConfig
from components.train.continued import must_take_over, take_over
from components.train.group_search import group_search
from components.train.launch import check_gpus, launch, launched
from components.train.learner import Learner
from components.train.progress import TrainProgress
from components.train.ranks import barrier, in_turns, joined, rank, world_size
from components.train.rollout_samples import FOLDER as ROLLOUTS_FOLDER
from components.train.rollout_samples import RolloutSamples
from components.train.sharding import save_model
from components.train.stop import StopRequest
from components.train.supervised import SupervisedTrainer
from components.train.trainer import Trainer
from components.train.training_page import training_page
from components.train.trainjob_progress import ProgressReport

METRICS_NAME = "metrics.jsonl"


def run(
    config: TrainConfig, context: StepContext, base_model: Manifest, index: Manifest, questions: Manifest
) -> StepResult:
    """Train the model, by reinforcement learning or as a baseline; resumes from its newest complete checkpoint.

    Several ranks are started from here, where `train.launch` says; each of them comes here again.

    Raises:
        ConfigError: settings contradict each other or the model (combinations.py), torchrun started another number of
            ranks than configured, or the backend cannot start them, or the retriever cannot be the one of all nodes or
            serves another index, or there is nothing to continue from.
        QuestionError: there are no dev questions.
        SearchError: too many searches failed.
        TrainingStopped: one of the stability rules ended the training, or there was nothing to imitate.
        StoppedBySignal: SIGTERM; the checkpoint of the last step is complete.
        RanksFailed: a rank that was started here failed.
        ClusterError: the cluster failed to run the training job.
    """
    _check(config)
    inputs = {"base_model": base_model, "index": index, "questions": questions}
    if launched():
        check_gpus(config)
        return _run_rank(config, context, inputs)
    return launch(config, context, inputs, lambda: _run_rank(config, context, inputs))


def _run_rank(config: TrainConfig, context: StepContext, inputs: dict[str, Manifest]) -> StepResult:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    with joined(config.parallel), tempfile.TemporaryDirectory(prefix="train-") as scratch, ExitStack() as opened:
        return _train(config, context, inputs, Path(scratch), opened)


def _train(
    config: TrainConfig, context: StepContext, inputs: dict[str, Manifest], scratch: Path, opened: ExitStack
) -> StepResult:
    work_uri = context.work_uri(inputs)
    storage = open_storage(work_uri)
    checkpoints = Checkpoints(storage)
    model_folder = fetch(inputs["base_model"]) / "model"
    policy, tokenizer = load_model(model_folder)
    check_heads(config, policy.config.num_attention_heads)
    check_attention(config, policy.config)
    # Updates of 1e-6 vanish in bfloat16: the weights that are trained are float32 on every device.
    policy = policy.float() if not dist.is_initialized() else policy
    learner = Learner(policy, config, _pad_id(tokenizer))
    # A sharded policy cannot be sampled from by one rank alone, nor one that is updated meanwhile: the engine then has
    # a copy of its own.
    own_copy = dist.is_initialized() or config.max_staleness_steps > 0
    engine, _ = open_engine(
        config.engine,
        model_folder,
        num_slots=config.num_slots,
        max_context_tokens=config.loop.max_context_tokens,
        vllm=config.vllm,
        loaded=None if own_copy else (policy, tokenizer),
    )
    # vLLM ends with every process group there is: after the last collective, and before the groups are gone.
    opened.callback(engine.close)
    on_disk = rank() == 0 and work_uri.startswith("file://")
    folder = Path(work_uri.removeprefix("file://")) if on_disk else scratch / "run"
    folder.mkdir(parents=True, exist_ok=True)
    metrics_file = folder / METRICS_NAME
    _find_checkpoints(config, storage)
    state = _resume(checkpoints, learner, metrics_file)
    with (
        group_search(config, partial(_open_search, config, inputs["index"])) as client,
        _tracker(config, folder, storage) as tracker,
        TrainProgress(config.steps, state.step) as progress,
        StopRequest() as stop,
    ):
        report = ProgressReport(config.steps, state.step)
        trainer_class = partial(SupervisedTrainer, storage=storage) if config.is_supervised else Trainer
        trainer = trainer_class(
            config,
            learner,
            engine,
            tokenizer,
            client,
            *_read_questions(fetch(inputs["questions"])),
            checkpoints,
            tracker,
            metrics_file,
            partial(_announce, progress, report) if rank() == 0 else _say_nothing,
            stop,
            RolloutSamples(storage, config, tokenizer),
        )
        trainer.publish_weights()
        state = trainer.run(state)
    model = scratch / "model"
    save_model(policy, tokenizer, model, config.export_dtype)
    barrier()
    return _publish(config, context, inputs, trainer, state, model)


def _open_search(config: TrainConfig, index: Manifest) -> ConcurrentSearch:
    return search_client(searcher_for(index, config.search), config.search, config.loop.top_k)


def _tracker(config: TrainConfig, folder: Path, storage: Storage) -> Tracker:
    """Return the tracker of the run; only the first rank speaks to a server.

    The run's name on the server is kept beside the checkpoints: a pod that continues has none of this one's disk.
    """
    if rank() != 0:
        return silent_tracker(folder)
    note = folder / RUN_FILE
    if not note.exists() and storage.exists(RUN_FILE):
        storage.get_file(RUN_FILE, note)
    tracker = open_tracker(_run_name(config), folder, {"step": "train"}, config.model_dump(exclude={"launch"}))
    if note.exists():
        storage.put_bytes(note.read_bytes(), RUN_FILE)
    return tracker


def _announce(progress: TrainProgress, report: ProgressReport, state: TrainState, metrics: dict[str, float]) -> None:
    progress.announce(state, metrics)
    report.announce(state, metrics)


def _say_nothing(state: TrainState, metrics: dict[str, float]) -> None:
    """Announce a step on ranks other than the first."""


def _check(config: TrainConfig) -> None:
    check_combinations(config)
    check_reachable(config.search, config.parallel.num_nodes)


def _run_name(config: TrainConfig) -> str:
    without_search = not config.loop.search_enabled and config.algorithm != "sft"
    return f"train-{config.algorithm.replace('_', '-')}" + ("-no-search" if without_search else "")


def _pad_id(tokenizer: Any) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def _find_checkpoints(config: TrainConfig, storage: Storage) -> None:
    """Say where checkpoints lie, and bring those of the training to continue there if there are none yet."""
    if rank() == 0:
        print(f"checkpoints: {storage.uri()}", flush=True)
        if config.continue_from and must_take_over(storage):
            take_over(storage, config.continue_from)
    barrier()


def _resume(checkpoints: Checkpoints, learner: Learner, metrics_file: Path) -> TrainState:
    complete = checkpoints.complete()
    if not complete:
        return TrainState()
    checkpoints.restore_metrics(complete[-1], metrics_file)
    state = checkpoints.restore(complete[-1], learner)
    print(f"resuming from step {state.step}", flush=True)
    return state


def _read_questions(folder: Path) -> tuple[dict[str, list[Question]], list[Question]]:
    """Return (training questions by set, dev questions with the sets taking turns)."""
    by_set: dict[str, list[Question]] = {}
    for question in _questions_in(folder / "train.jsonl"):
        by_set.setdefault(question.set_name, []).append(question)
    dev_by_set: dict[str, list[Question]] = {}
    for question in _questions_in(folder / "dev.jsonl"):
        dev_by_set.setdefault(question.set_name, []).append(question)
    longest = max(map(len, dev_by_set.values()), default=0)
    dev = [group[i] for i in range(longest) for group in dev_by_set.values() if i < len(group)]
    if not dev:
        raise QuestionError(
            "There are no dev questions to choose a checkpoint by", remedy="set questions.dev_questions"
        )
    return by_set, dev


def _questions_in(path: Path) -> list[Question]:
    with path.open(encoding="utf-8") as lines:
        return [Question.model_validate_json(line) for line in lines]


def _publish(
    config: TrainConfig,
    context: StepContext,
    inputs: dict[str, Manifest],
    trainer: Trainer,
    state: TrainState,
    model: Path,
) -> StepResult:
    """Publish the checkpoint from the first rank; the others learn its manifest from it."""
    manifests = []
    if rank() == 0:
        manifests = [_published(config, context, inputs, trainer, state, model)]
    (manifest,) = in_turns(manifests)
    html = training_page(manifest, inputs) if rank() == 0 else ""
    return StepResult(manifest, _card(config, state), _headline(state), html)


def _published(
    config: TrainConfig,
    context: StepContext,
    inputs: dict[str, Manifest],
    trainer: Trainer,
    state: TrainState,
    model: Path,
) -> Manifest:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoint"
        shutil.copytree(model, folder / "model")
        shutil.copy(trainer.metrics_file, folder / METRICS_NAME)
        trainer.rollout_samples.copy_to(folder / ROLLOUTS_FOLDER)
        (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
        return publish(
            folder,
            storage_root=context.storage_root,
            kind="checkpoint",
            produced_by=context.produced_by(),
            inputs=inputs,
            counts={"steps": state.step, "model_tokens": state.tokens},
            metadata={
                "algorithm": config.algorithm,
                "steps": state.step,
                "rl_s": round(state.rl_s, 1),
                "tokens": state.tokens,
                "num_gpus": world_size() if next(trainer.learner.policy.parameters()).is_cuda else 0,
                "best_step": state.best_step,
                "dev_em": state.best_dev_em,
                "em_curve": state.em_curve,
                "num_rollbacks": state.num_rollbacks,
                "prompt": config.loop.template,
                "seed": config.seed,
                "loop": config.loop.model_dump(mode="json"),
            },
            mlflow=trainer.tracker.mlflow,
        )


def _headline(state: TrainState) -> dict[str, float]:
    return {"dev_em": state.best_dev_em, "best_step": state.best_step, "steps": state.step, "rl_s": state.rl_s}


def _card(config: TrainConfig, state: TrainState) -> str:
    return (
        f"# train: {config.algorithm}\n\n| | |\n|---|---|\n"
        f"| dev EM | {state.em_curve[0][1]:.3f} -> {state.best_dev_em:.3f} at step {state.best_step} |\n"
        f"| steps | {state.step} |\n| training time | {state.rl_s:.0f} s |\n| model tokens | {state.tokens:,} |\n"
    )


step = Step("train", TrainConfig, run, TaskFailures.of_environment)
