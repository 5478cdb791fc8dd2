"""KFP declaration of the train step."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def train(
    settings: str,
    base_model: Input[Model],
    index: Input[Artifact],
    questions: Input[Dataset],
    manifest: Output[Model],
    card: Output[Markdown],
    metrics: Output[Metrics],
    html: Output[HTML],
):
    """Teach the model to search by reinforcement learning; resumes from its last checkpoint."""
    from components.train.main import step

    inputs = {
        "base_model": base_model,
        "index": index,
        "questions": questions,
    }
    step.execute_task(settings, inputs, {"manifest": manifest, "card": card, "metrics": metrics, "html": html})
