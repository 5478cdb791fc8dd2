"""KFP declaration of the base_model step."""

from kfp import dsl
from kfp.dsl import Markdown, Metrics, Model, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def base_model(
    settings: str,
    manifest: Output[Model],
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Fetch or make the model that training starts from."""
    from components.base_model.main import step

    step.execute_task(settings, {}, {"manifest": manifest, "card": card, "metrics": metrics})
