"""The graph and nothing else: every edge of the system on one screen."""

import dataclasses

from kfp import dsl
from kfp.dsl.pipeline_channel import PipelineArtifactChannel
from kfp.dsl.python_component import PythonComponent

from components.base_model.component import base_model
from components.corpus.component import corpus
from components.evaluate.component import evaluate
from components.index.component import index
from components.questions.component import questions
from components.register.component import register
from components.resolve.component import resolve
from components.summary.component import summary
from components.train.component import train
from pipeline import parameters
from pipeline.resources import place


def _again(component: PythonComponent, task_name: str) -> PythonComponent:
    """Return the same component under another task name, so that a second use of it is readable everywhere."""
    return PythonComponent(dataclasses.replace(component.component_spec, name=task_name), component.python_func)


def _manifest(task: dsl.PipelineTask) -> PipelineArtifactChannel:
    return place(task).outputs["manifest"]


train_rl_no_search = _again(train, "train-rl-no-search")
train_sft = _again(train, "train-sft")
train_rejection_sampling = _again(train, "train-rejection-sampling")


@dsl.pipeline(name="search-r1", description="Corpus to registered model: a language model learns to search.")
def search_r1(
    p01_preset: str = parameters.PRESET.default,
    p02_corpus_uri: str = parameters.CORPUS_URI.default,
    p03_questions_uri: str = parameters.QUESTIONS_URI.default,
    p04_base_model: str = parameters.BASE_MODEL.default,
    p05_model_name: str = parameters.MODEL_NAME.default,
    p06_seed: int = parameters.SEED.default,
    p07_storage_root: str = parameters.STORAGE_ROOT.default,
    p90_overrides: str = parameters.OVERRIDES.default,
):
    """Resolve the settings once, then let every step talk through manifests."""
    settings = place(
        resolve(
            preset=p01_preset,
            corpus_uri=p02_corpus_uri,
            questions_uri=p03_questions_uri,
            base_model=p04_base_model,
            model_name=p05_model_name,
            seed=p06_seed,
            storage_root=p07_storage_root,
            overrides=p90_overrides,
        )
    ).outputs

    passages = _manifest(corpus(settings=settings["corpus"]))
    found = _manifest(index(settings=settings["index"], corpus=passages))
    asked = _manifest(questions(settings=settings["questions"]))
    base = _manifest(base_model(settings=settings["base_model"]))

    world = {"base_model": base, "index": found, "questions": asked}
    checkpoint = _manifest(train(settings=settings["train"], **world))
    rl_no_search = _manifest(train_rl_no_search(settings=settings["train_rl_no_search"], **world))
    sft = _manifest(train_sft(settings=settings["train_sft"], **world))
    rejection_sampling = _manifest(train_rejection_sampling(settings=settings["train_rejection_sampling"], **world))
    models = {
        "checkpoint": checkpoint,
        "rl_no_search_checkpoint": rl_no_search,
        "sft_checkpoint": sft,
        "rejection_sampling_checkpoint": rejection_sampling,
    }

    evaluation = _manifest(evaluate(settings=settings["evaluate"], **world, **models))
    registration = _manifest(
        register(settings=settings["register"], checkpoint=checkpoint, evaluation=evaluation, index=found)
    )
    place(
        summary(
            settings=settings["summary"],
            corpus=passages,
            **world,
            **models,
            evaluation=evaluation,
            registration=registration,
        )
    )
