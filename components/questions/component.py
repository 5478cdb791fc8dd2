"""KFP declaration of the questions step."""

from kfp import dsl
from kfp.dsl import Dataset, Markdown, Metrics, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def questions(
    settings: str,
    manifest: Output[Dataset],
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Read, validate and publish the question sets: train, dev and the seven test sets."""
    from components.questions.main import step

    step.execute_task(settings, {}, {"manifest": manifest, "card": card, "metrics": metrics})
