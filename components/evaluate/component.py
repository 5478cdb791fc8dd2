"""KFP declaration of the evaluate step."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def evaluate(
    settings: str,
    base_model: Input[Model],
    index: Input[Artifact],
    questions: Input[Dataset],
    checkpoint: Input[Model],
    rl_no_search_checkpoint: Input[Model],
    sft_checkpoint: Input[Model],
    rejection_sampling_checkpoint: Input[Model],
    manifest: Output[Artifact],
    card: Output[Markdown],
    metrics: Output[Metrics],
    html: Output[HTML],
):
    """Score the trained model and its baselines on every question set; makes the report."""
    from components.evaluate.main import step

    inputs = {
        "base_model": base_model,
        "index": index,
        "questions": questions,
        "checkpoint": checkpoint,
        "rl_no_search_checkpoint": rl_no_search_checkpoint,
        "sft_checkpoint": sft_checkpoint,
        "rejection_sampling_checkpoint": rejection_sampling_checkpoint,
    }
    step.execute_task(settings, inputs, {"manifest": manifest, "card": card, "metrics": metrics, "html": html})
