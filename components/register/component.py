"""KFP declaration of the register step."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def register(
    settings: str,
    checkpoint: Input[Model],
    evaluation: Input[Artifact],
    index: Input[Artifact],
    manifest: Output[Artifact],
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Register the checkpoint in MLflow if it passes the gate; idempotent by checkpoint digest."""
    from components.register.main import step

    inputs = {
        "checkpoint": checkpoint,
        "evaluation": evaluation,
        "index": index,
    }
    step.execute_task(settings, inputs, {"manifest": manifest, "card": card, "metrics": metrics})
