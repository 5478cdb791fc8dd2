"""The graph and nothing else: every edge of the system on one screen.

The four groups are folded boxes in the Kubeflow UI. docs/decisions/0012 says what kfp.local asks of their shape.
"""

import dataclasses
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model
from kfp.dsl.pipeline_channel import PipelineArtifactChannel
from kfp.dsl.python_component import PythonComponent

from components.base_model.component import base_model
from components.corpus.component import corpus
from components.evaluate.component import evaluate
from components.index.component import index
from components.notify.component import notify
from components.questions.component import questions
from components.register.component import register
from components.resolve.component import resolve
from components.summary.component import summary
from components.train.component import train
from pipeline import parameters
from pipeline.resources import KEPT_AFTER_END_S, place


def _again(component: PythonComponent, task_name: str) -> PythonComponent:
    """Return the same component under another task name, so that a second use of it is readable everywhere."""
    return PythonComponent(dataclasses.replace(component.component_spec, name=task_name), component.python_func)


def _manifest(task: dsl.PipelineTask) -> PipelineArtifactChannel:
    return place(task).outputs["manifest"]


train_rl_no_search = _again(train, "train-rl-no-search")
train_sft = _again(train, "train-sft")
train_rejection_sampling = _again(train, "train-rejection-sampling")


class Data(NamedTuple):
    """What a run works with."""

    corpus: Dataset
    questions: Dataset
    base_model: Model


class Retrieval(NamedTuple):
    """What is searched."""

    index: Artifact


class Training(NamedTuple):
    """The model and the trained baselines it is compared with."""

    checkpoint: Model
    rl_no_search_checkpoint: Model
    sft_checkpoint: Model
    rejection_sampling_checkpoint: Model


@dsl.pipeline(name="data")
def data(corpus_settings: str, questions_settings: str, base_model_settings: str) -> Data:
    """Bring corpus, questions and base model into the storage."""
    return Data(
        corpus=_manifest(corpus(settings=corpus_settings)),
        questions=_manifest(questions(settings=questions_settings)),
        base_model=_manifest(base_model(settings=base_model_settings)),
    )


@dsl.pipeline(name="retrieval")
def retrieval(index_settings: str, corpus: Input[Dataset]) -> Retrieval:
    """Make the corpus searchable."""
    return Retrieval(index=_manifest(index(settings=index_settings, corpus=corpus)))


@dsl.pipeline(name="training")
def training(
    train_settings: str,
    train_rl_no_search_settings: str,
    train_sft_settings: str,
    train_rejection_sampling_settings: str,
    base_model: Input[Model],
    index: Input[Artifact],
    questions: Input[Dataset],
) -> Training:
    """Train the model and the trained baselines."""
    world = {"base_model": base_model, "index": index, "questions": questions}
    return Training(
        checkpoint=_manifest(train(settings=train_settings, **world)),
        rl_no_search_checkpoint=_manifest(train_rl_no_search(settings=train_rl_no_search_settings, **world)),
        sft_checkpoint=_manifest(train_sft(settings=train_sft_settings, **world)),
        rejection_sampling_checkpoint=_manifest(
            train_rejection_sampling(settings=train_rejection_sampling_settings, **world)
        ),
    )


@dsl.pipeline(name="release")
def release(
    evaluate_settings: str,
    register_settings: str,
    summary_settings: str,
    corpus: Input[Dataset],
    base_model: Input[Model],
    index: Input[Artifact],
    questions: Input[Dataset],
    checkpoint: Input[Model],
    rl_no_search_checkpoint: Input[Model],
    sft_checkpoint: Input[Model],
    rejection_sampling_checkpoint: Input[Model],
):
    """Score every model, let the gate decide, write down the result."""
    made = {
        "base_model": base_model,
        "index": index,
        "questions": questions,
        "checkpoint": checkpoint,
        "rl_no_search_checkpoint": rl_no_search_checkpoint,
        "sft_checkpoint": sft_checkpoint,
        "rejection_sampling_checkpoint": rejection_sampling_checkpoint,
    }
    evaluation = _manifest(evaluate(settings=evaluate_settings, **made))
    registration = _manifest(
        register(settings=register_settings, checkpoint=checkpoint, evaluation=evaluation, index=index)
    )
    place(summary(settings=summary_settings, corpus=corpus, **made, evaluation=evaluation, registration=registration))


@dsl.pipeline(
    name="search-r1",
    description="Corpus to registered model: a language model learns to search.",
    pipeline_config=dsl.PipelineConfig(ttl_seconds_after_finished=KEPT_AFTER_END_S),
)
def search_r1(
    p01_preset: str = parameters.PRESET.default,
    p02_corpus_uri: str = parameters.CORPUS_URI.default,
    p03_questions_uri: str = parameters.QUESTIONS_URI.default,
    p04_base_model: str = parameters.BASE_MODEL.default,
    p05_model_name: str = parameters.MODEL_NAME.default,
    p06_seed: int = parameters.SEED.default,
    p07_storage_root: str = parameters.STORAGE_ROOT.default,
    p08_only_new_corpus: str = parameters.ONLY_NEW_CORPUS.default,
    p90_overrides: str = parameters.OVERRIDES.default,
):
    """Resolve the settings once, then let every step talk through manifests; tell how it ended, whatever happened."""
    with dsl.ExitHandler(place(notify(storage_root=p07_storage_root)), name="Run"):
        settings = place(
            resolve(
                preset=p01_preset,
                corpus_uri=p02_corpus_uri,
                questions_uri=p03_questions_uri,
                base_model=p04_base_model,
                model_name=p05_model_name,
                seed=p06_seed,
                storage_root=p07_storage_root,
                only_new_corpus=p08_only_new_corpus,
                overrides=p90_overrides,
            )
        ).outputs
        with dsl.If(settings["Output"] == "train", name="Something to train on"):
            found = data(
                corpus_settings=settings["corpus"],
                questions_settings=settings["questions"],
                base_model_settings=settings["base_model"],
            ).set_display_name("Data")
            searched = retrieval(index_settings=settings["index"], corpus=found.outputs["corpus"]).set_display_name(
                "Retrieval"
            )
            world = {
                "base_model": found.outputs["base_model"],
                "index": searched.outputs["index"],
                "questions": found.outputs["questions"],
            }
            trained = training(
                train_settings=settings["train"],
                train_rl_no_search_settings=settings["train_rl_no_search"],
                train_sft_settings=settings["train_sft"],
                train_rejection_sampling_settings=settings["train_rejection_sampling"],
                **world,
            ).set_display_name("Training")
            release(
                evaluate_settings=settings["evaluate"],
                register_settings=settings["register"],
                summary_settings=settings["summary"],
                corpus=found.outputs["corpus"],
                **world,
                **{name: trained.outputs[name] for name in Training._fields},
            ).set_display_name("Release")
