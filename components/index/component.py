"""KFP declaration of the index step."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Metrics, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def index(
    settings: str,
    corpus: Input[Dataset],
    manifest: Output[Artifact],
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Build and verify the search index of the corpus."""
    from components.index.main import step

    step.execute_task(settings, {"corpus": corpus}, {"manifest": manifest, "card": card, "metrics": metrics})
