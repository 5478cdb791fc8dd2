"""How a run ended, gathered from what its steps left behind: the message of the webhook and the card of the UI."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from components.contracts.errors import MissingError
from components.storage import open_storage
from components.storage.failures import failures_of
from components.tracking import without_credentials

UI_VARIABLE = "SEARCHR1_KFP_UI_URL"
"""Environment variable with the address of the Kubeflow UI as people reach it; without it the run is not linked."""
KFP_RUN_VARIABLE = "KFP_RUN_ID"
_NO_RECORD = (
    "no step left a record: its pod could not start (image, Secret, no room), or the run was ended before the first one"
)
_LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class Outcome:
    """The end of one run; `asdict` of it is the JSON that is posted."""

    schema_version: int
    run_id: str
    state: str
    """`succeeded`, `nothing_new` or `failed`."""
    text: str
    """All of it in a sentence or two; chat webhooks show this field."""
    task: str = ""
    """The task that failed first; empty when none did or it left no record."""
    reason: str = ""
    """Why the run failed, or why nothing was trained."""
    last_lines: tuple[str, ...] = ()
    """What the failed task printed last."""
    failed_tasks: tuple[str, ...] = ()
    """Every task with a record, in the order of failing."""
    links: dict[str, str] = field(default_factory=dict)
    """`kfp`, `mlflow`, `report`, `summary`: those that exist."""

    def to_json(self) -> str:
        """Return the outcome as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


def gather(run_id: str, state: str, error_message: str, storage_root: str, mlflow_url: str) -> Outcome:
    """Return the outcome of a run whose pipeline ended in the Kubeflow state `state`.

    Raises:
        UserError: the storage root is malformed.
        StorageError: the storage refuses.
    """
    links = _links(run_id, storage_root, mlflow_url)
    if state == "SUCCEEDED":
        decision = _json(storage_root, run_id, "resolved.json")
        if decision.get("decision") == "known":
            reason = str(decision.get("reason", ""))
            return Outcome(1, run_id, "nothing_new", f"Run {run_id}: {reason}", reason=reason, links=links)
        text = f"Run {run_id} succeeded{_registered(storage_root, run_id)}"
        return Outcome(1, run_id, "succeeded", text, links=links)
    records = failures_of(storage_root, run_id)
    if not records:
        reason = said_by_kubeflow(error_message) or _NO_RECORD
        return Outcome(1, run_id, "failed", f"Run {run_id} failed: {reason}", reason=reason, links=links)
    first = records[0]
    reason = without_credentials(f"{first.get('type', 'Error')}: {first.get('message', '')}")[:_LONGEST_MESSAGE]
    lines = first.get("last_lines", ())
    task = str(first.get("task", first.get("step", "")))
    return Outcome(
        1,
        run_id,
        "failed",
        f"Run {run_id} failed in {task}: {reason.splitlines()[0]}",
        task,
        reason,
        tuple(without_credentials(str(line)) for line in lines) if isinstance(lines, list) else (),
        tuple(str(record.get("task", record.get("step", ""))) for record in records),
        links,
    )


def said_by_kubeflow(error_message: str) -> str:
    """Return the message as it may be told: without passwords, and not longer than a chat takes."""
    return without_credentials(error_message)[:_LONGEST_MESSAGE]


def _links(run_id: str, storage_root: str, mlflow_url: str) -> dict[str, str]:
    storage = open_storage(f"{storage_root.rstrip('/')}/{run_id}")
    links = {"mlflow": mlflow_url} if mlflow_url else {}
    ui, kfp_run = os.environ.get(UI_VARIABLE, ""), os.environ.get(KFP_RUN_VARIABLE, "")
    if ui and kfp_run:
        links["kfp"] = f"{without_credentials(ui).rstrip('/')}/#/runs/details/{kfp_run}"
    for name, file in {"report": "report.html", "summary": "summary.json"}.items():
        if storage.exists(file):
            links[name] = storage.uri(file)
    return links


def _registered(storage_root: str, run_id: str) -> str:
    registry = _json(storage_root, run_id, "summary.json").get("registry", {})
    version = f" version {registry['version']}" if registry.get("version") else ""
    return f": {registry.get('name')}{version} {registry.get('decision')}" if registry else ""


def _json(storage_root: str, run_id: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(open_storage(f"{storage_root.rstrip('/')}/{run_id}").get_bytes(name))
    except (MissingError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
