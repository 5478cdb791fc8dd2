"""Exit handler: gather how the run ended, close its MLflow run, tell the webhook. Nothing here fails the run."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

from components.contracts.errors import SearchR1Error
from components.contracts.step import TaskArtifact
from components.notify.outcome import Outcome, gather, said_by_kubeflow
from components.notify.webhook import URL_VARIABLE, post, webhook_url
from components.storage.failures import RUN_ID_VARIABLE
from components.tracking.parent import PARENT_VARIABLE, close_parent


def notify_task(state: str, error_message: str, storage_root: str, outputs: Mapping[str, TaskArtifact]) -> None:
    """Tell how the run ended that Kubeflow gives the state `state`; failures of telling are printed."""
    try:
        outcome = _outcome(state, error_message, storage_root)
        print(outcome.text, flush=True)
        is_delivered = _deliver(outcome)
        _write(outcome, is_delivered, outputs)
    # The run is over and stays what it is: neither a defect of ours nor of the storage may turn it into a failed one.
    except Exception as error:
        print(f"warning: nobody was told: {type(error).__name__}", flush=True)


def _outcome(state: str, error_message: str, storage_root: str) -> Outcome:
    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    mlflow_url = ""
    try:
        # `searchr1 run` ends its MLflow run itself: only a webhook needs the link then, and MLflow takes seconds.
        if webhook_url() or not os.environ.get(PARENT_VARIABLE):
            mlflow_url = close_parent("FINISHED" if state == "SUCCEEDED" else "FAILED")
    except SearchR1Error as error:
        print(f"warning: {error}", flush=True)
    try:
        return gather(run_id, state, error_message, storage_root, mlflow_url)
    except SearchR1Error as error:
        print(f"warning: {error}", flush=True)
        ended = "succeeded" if state == "SUCCEEDED" else "failed"
        text = f"Run {run_id} {ended}; its records cannot be read"
        return Outcome(1, run_id, ended, text, reason=said_by_kubeflow(error_message))


def _deliver(outcome: Outcome) -> bool:
    url = webhook_url()
    if not url:
        print(f"{URL_VARIABLE} is not set: no webhook is told", flush=True)
        return False
    try:
        post(url, outcome.to_json())
    except SearchR1Error as error:
        print(f"warning: {error}", flush=True)
        return False
    print("the webhook was told", flush=True)
    return True


def _write(outcome: Outcome, is_delivered: bool, outputs: Mapping[str, TaskArtifact]) -> None:
    numbers = {"failed_tasks": len(outcome.failed_tasks), "delivered": int(is_delivered)}
    texts = {"card": _card(outcome), "metrics": json.dumps(numbers)}
    for name, artifact in outputs.items():
        Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
        Path(artifact.path).write_text(texts[name], encoding="utf-8")
        artifact.metadata.update(numbers if name == "metrics" else {})


def _card(outcome: Outcome) -> str:
    """Return the page; what steps and people wrote stands in an indented block, where it opens no link or tag."""
    said = [outcome.reason or outcome.text, "", *outcome.last_lines]
    block = "\n".join(f"    {line}" for text in said for line in text.splitlines() or [""])
    links = "\n".join(f"* {name}: {address}" for name, address in outcome.links.items())
    title = f"# {outcome.state.replace('_', ' ').capitalize()}"
    return f"{title}{f' in {outcome.task}' if outcome.task else ''}\n\n{block}\n\n{links}\n"


def main() -> None:
    """Command line of `python -m components.notify`: tell again how a run ended."""
    parser = argparse.ArgumentParser(prog="python -m components.notify", description="Tell how a run ended.")
    parser.add_argument("--state", default="SUCCEEDED", help="SUCCEEDED or FAILED")
    parser.add_argument("--storage-root", default=f"file://{Path.cwd() / 'runs'}", help="file:// or s3:// prefix")
    given = parser.parse_args()
    notify_task(given.state, "", given.storage_root, {})
