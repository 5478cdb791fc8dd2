"""KFP declaration of the summary step."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def summary(
    settings: str,
    corpus: Input[Dataset],
    index: Input[Artifact],
    questions: Input[Dataset],
    base_model: Input[Model],
    checkpoint: Input[Model],
    rl_no_search_checkpoint: Input[Model],
    sft_checkpoint: Input[Model],
    rejection_sampling_checkpoint: Input[Model],
    evaluation: Input[Artifact],
    registration: Input[Artifact],
    manifest: Output[Artifact],
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Write the summary and the report of this run below its own prefix."""
    from components.summary.main import step

    inputs = {
        "corpus": corpus,
        "index": index,
        "questions": questions,
        "base_model": base_model,
        "checkpoint": checkpoint,
        "rl_no_search_checkpoint": rl_no_search_checkpoint,
        "sft_checkpoint": sft_checkpoint,
        "rejection_sampling_checkpoint": rejection_sampling_checkpoint,
        "evaluation": evaluation,
        "registration": registration,
    }
    step.execute_task(settings, inputs, {"manifest": manifest, "card": card, "metrics": metrics})
