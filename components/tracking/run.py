"""The MLflow run behind a tracker: attach to the one that is given, else find or create it.

Order: `MLFLOW_RUN_ID` (a launcher made it and will end it); the run this folder was tracked by before;
a child of the parent (see `parent.py`) with the same name and parameters; a new child; without a parent a new run.
The client is told everything explicitly: MLflow's fluent API would end a launcher's run at exit.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from components.tracking.client import (
    TRACKING_URI_VARIABLE,
    open_client,
    run_url,
    tracking_boundary,
    without_credentials,
)
from components.tracking.parent import experiment_id, parent_run_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
ATTEMPT_METRIC = "progress/attempt"
"""Logged with every batch, so that its history tells which steps the run already has."""
_PARENT_TAG = "mlflow.parentRunId"
_IDENTITY_TAG = "tracker.identity"
RUN_FILE = "mlflow_run.json"
"""Names the run of a folder; whoever works on in another folder brings it there."""
_NO_STEP = -1
_LONGEST_PARAM = 6000
_LONGEST_TAG = 8000


@dataclass(frozen=True, slots=True)
class Point:
    """One metric value at one step."""

    name: str
    value: float
    step: int
    timestamp_ms: int


class MlflowRun:
    """One run of a tracking server; every method may raise `TrackingError`."""

    def __init__(self, client: "MlflowClient", tracking_uri: str, run: "Run", owned: bool) -> None:
        self._client, self._tracking_uri, self._owned = client, tracking_uri, owned
        self.run_id: str = run.info.run_id
        self.url = run_url(tracking_uri, run.info.experiment_id, self.run_id)
        self._params = dict(run.data.params)

    @classmethod
    def open(cls, run_name: str, folder: Path, tags: Mapping[str, str], params: Mapping[str, Any]) -> Self:
        """Return the run in the order the module states, running, with `tags` and `params` set.

        Raises:
            TrackingError: the server cannot be reached or does not know the run it is given.
        """
        tracking_uri = os.environ[TRACKING_URI_VARIABLE]
        client = open_client(tracking_uri)
        with tracking_boundary(tracking_uri):
            given = os.environ.get(RUN_ID_VARIABLE)
            if given:
                opened = cls(client, tracking_uri, client.get_run(given), owned=False)
            else:
                run = _own_run(client, tracking_uri, run_name, folder, _identity(run_name, params))
                opened = cls(client, tracking_uri, run, owned=True)
        opened.set_tags(tags)
        opened._set_params(params)
        return opened

    def highest_step(self) -> int:
        """Return the highest step a tracker has logged here, -1 when there is none."""
        with tracking_boundary(self._tracking_uri):
            history = self._client.get_metric_history(self.run_id, ATTEMPT_METRIC)
        return max((point.step for point in history), default=_NO_STEP)

    def _set_params(self, params: Mapping[str, Any]) -> None:
        # A server refuses a changed value together with everything else of the call.
        from mlflow.entities import Param

        values = {f"cfg/{name}": _text(value)[:_LONGEST_PARAM] for name, value in _flat(params).items()}
        drift = {k: [self._params[k], v] for k, v in values.items() if self._params.get(k, v) != v}
        new = [Param(name, value) for name, value in values.items() if name not in self._params]
        with tracking_boundary(self._tracking_uri):
            if new:
                self._client.log_batch(self.run_id, params=new)
        if drift:
            self.set_tags({"param_drift": json.dumps(drift)})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set the tags, each cut at the length a server keeps."""
        from mlflow.entities import RunTag

        with tracking_boundary(self._tracking_uri):
            entries = [RunTag(name, str(value)[:_LONGEST_TAG]) for name, value in tags.items()]
            if entries:
                self._client.log_batch(self.run_id, tags=entries)

    def log(self, points: list[Point]) -> None:
        """Log finite points in one call."""
        from mlflow.entities import Metric

        assert all(math.isfinite(point.value) for point in points)
        with tracking_boundary(self._tracking_uri):
            metrics = [Metric(point.name, point.value, point.timestamp_ms, point.step) for point in points]
            self._client.log_batch(self.run_id, metrics=metrics)

    def log_artifact(self, path: Path, folder: str) -> None:
        """Upload one file into the run's artifacts."""
        with tracking_boundary(self._tracking_uri):
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def finish(self, status: str) -> None:
        """Give the run its final status, unless a launcher owns it."""
        if self._owned:
            with tracking_boundary(self._tracking_uri):
                self._client.set_terminated(self.run_id, status)


def _own_run(client: "MlflowClient", tracking_uri: str, run_name: str, folder: Path, identity: str) -> "Run":
    parent = parent_run_id(client, experiment_id(client, tracking_uri))
    run = _run_of_folder(client, tracking_uri, folder) or _child_of(client, parent, identity)
    if run is None:
        experiment = client.get_run(parent).info.experiment_id if parent else experiment_id(client, tracking_uri)
        tags = {_IDENTITY_TAG: identity} | ({_PARENT_TAG: parent} if parent else {})
        run = client.create_run(experiment, run_name=run_name, tags=tags)
    else:
        client.update_run(run.info.run_id, status="RUNNING")
        if parent:
            client.set_tag(run.info.run_id, _PARENT_TAG, parent)
    note = {"tracking_uri": without_credentials(tracking_uri), "run_id": run.info.run_id}
    (folder / RUN_FILE).write_text(json.dumps(note), encoding="utf-8")
    return run


def _run_of_folder(client: "MlflowClient", tracking_uri: str, folder: Path) -> "Run | None":
    """Return the living run this folder was tracked by on this server, if there is one."""
    from mlflow.exceptions import MlflowException

    try:
        note = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if note["tracking_uri"] != without_credentials(tracking_uri):
            return None
        run = client.get_run(note["run_id"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _child_of(client: "MlflowClient", parent: str, identity: str) -> "Run | None":
    """Return the parent's child of that identity, if there is one: a retried task must not make a second."""
    if not parent:
        return None
    experiment = client.get_run(parent).info.experiment_id
    filter_string = f"tags.`{_PARENT_TAG}` = '{parent}' and tags.`{_IDENTITY_TAG}` = '{identity}'"
    children = client.search_runs([experiment], filter_string=filter_string)
    return children[0] if children else None


def _identity(run_name: str, params: Mapping[str, Any]) -> str:
    values = json.dumps([run_name, _flat(params)], sort_keys=True, default=str)
    return hashlib.sha256(values.encode()).hexdigest()[:32]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
