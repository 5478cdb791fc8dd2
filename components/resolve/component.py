"""KFP declaration of the resolve step."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Markdown, Metrics, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def resolve(
    preset: str,
    corpus_uri: str,
    questions_uri: str,
    base_model: str,
    model_name: str,
    seed: int,
    storage_root: str,
    only_new_corpus: str,
    overrides: str,
    card: Output[Markdown],
    metrics: Output[Metrics],
) -> NamedTuple(
    "Settings",
    [
        # The decision, `train` or `known`. kfp.local finds the value of a condition by this name only.
        ("Output", str),
        ("corpus", str),
        ("index", str),
        ("questions", str),
        ("base_model", str),
        ("train", str),
        ("train_rl_no_search", str),
        ("train_sft", str),
        ("train_rejection_sampling", str),
        ("evaluate", str),
        ("register", str),
        ("summary", str),
    ],
):
    """Turn the run parameters into one settings string per task, or say what is wrong with them."""
    from components.resolve.main import resolve_task

    return resolve_task(
        outputs={"card": card, "metrics": metrics},
        preset=preset,
        corpus_uri=corpus_uri,
        questions_uri=questions_uri,
        base_model=base_model,
        model_name=model_name,
        seed=seed,
        storage_root=storage_root,
        only_new_corpus=only_new_corpus,
        overrides=overrides,
    )
