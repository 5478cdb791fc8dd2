"""KFP declaration of the corpus step."""

from kfp import dsl
from kfp.dsl import Dataset, Markdown, Metrics, Output


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def corpus(
    settings: str,
    manifest: Output[Dataset],
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Resolve, validate and publish the corpus as wiki-18 JSONL."""
    from components.corpus.main import step

    step.execute_task(settings, {}, {"manifest": manifest, "card": card, "metrics": metrics})
