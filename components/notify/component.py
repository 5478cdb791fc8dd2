"""KFP declaration of the exit handler."""

from kfp import dsl
from kfp.dsl import Markdown, Metrics, Output, PipelineTaskFinalStatus


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def notify(
    status: PipelineTaskFinalStatus,
    storage_root: str,
    card: Output[Markdown],
    metrics: Output[Metrics],
):
    """Tell how the run ended; runs whatever happened before it."""
    from components.notify.main import notify_task

    notify_task(
        state=status.state,
        error_message=status.error_message or "",
        storage_root=storage_root,
        outputs={"card": card, "metrics": metrics},
    )
