"""The MLflow run that gathers the steps of one pipeline run.

`searchr1 run` makes it and names it in `SEARCHR1_MLFLOW_PARENT_RUN_ID`. On a cluster nobody runs before the steps:
there it is found by a tag with the id of the pipeline run, and made by the first step that looks for it.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from components.tracking.client import TRACKING_URI_VARIABLE, open_client, run_url, tracking_boundary

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_VARIABLE = "SEARCHR1_MLFLOW_PARENT_RUN_ID"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
PIPELINE_RUN_VARIABLE = "SEARCHR1_RUN_ID"
_PIPELINE_RUN_TAG = "searchr1.run_id"
# What goes into a filter expression holds no quote.
_RUN_ID = re.compile(r"[A-Za-z0-9._-]+")


def parent_run_id(client: "MlflowClient", experiment: str) -> str:
    """Return the id of the parent run, made in `experiment` if need be; an empty string outside of a pipeline run."""
    if given := os.environ.get(PARENT_VARIABLE, ""):
        return given
    pipeline_run = os.environ.get(PIPELINE_RUN_VARIABLE, "")
    if not _RUN_ID.fullmatch(pipeline_run):
        return ""
    if found := _runs_of(client, experiment, pipeline_run):
        return found[0].info.run_id
    made = client.create_run(experiment, run_name=pipeline_run, tags={_PIPELINE_RUN_TAG: pipeline_run}).info.run_id
    # Parallel steps may each have made one: all take the same, whoever made another withdraws it.
    first = _runs_of(client, experiment, pipeline_run)[0].info.run_id
    if made != first:
        client.delete_run(made)
    return first


def open_parent() -> str:
    """Make the parent run if nobody has, and return where a person sees it.

    Without a server or a pipeline run nothing happens and the text is empty; so too below `searchr1 run`.

    Raises:
        TrackingError: a server is configured and cannot be reached.
    """
    tracking_uri = os.environ.get(TRACKING_URI_VARIABLE, "")
    if not tracking_uri or os.environ.get(PARENT_VARIABLE):
        return ""
    client = open_client(tracking_uri)
    with tracking_boundary(tracking_uri):
        run_id = parent_run_id(client, experiment_id(client, tracking_uri))
        return run_url(tracking_uri, client.get_run(run_id).info.experiment_id, run_id) if run_id else ""


def close_parent(status: str) -> str:
    """Give the parent run that the steps made its final status and return where a person sees it.

    Without one nothing happens and the text is empty; a run that `searchr1 run` made is left to it.

    Raises:
        TrackingError: a server is configured and cannot be reached.
    """
    tracking_uri = os.environ.get(TRACKING_URI_VARIABLE, "")
    if not tracking_uri:
        return ""
    client = open_client(tracking_uri)
    with tracking_boundary(tracking_uri):
        if given := os.environ.get(PARENT_VARIABLE, ""):
            return run_url(tracking_uri, client.get_run(given).info.experiment_id, given)
        pipeline_run = os.environ.get(PIPELINE_RUN_VARIABLE, "")
        experiment = client.get_experiment_by_name(_experiment_name())
        found = _runs_of(client, experiment.experiment_id, pipeline_run) if experiment else []
        if not found:
            return ""
        run_id = found[0].info.run_id
        client.set_terminated(run_id, status)
        return run_url(tracking_uri, found[0].info.experiment_id, run_id)


def experiment_id(client: "MlflowClient", tracking_uri: str) -> str:
    """Return the id of the experiment that `MLFLOW_EXPERIMENT_NAME` names (`searchr1` unless set), made if needed.

    Beside a SQLite file the artifacts lie in the same folder; MLflow's own default is the working directory.
    """
    name = _experiment_name()
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    database = tracking_uri.removeprefix("sqlite:///")
    if database == tracking_uri:
        return client.create_experiment(name)
    return client.create_experiment(
        name, artifact_location=f"file://{Path(database).absolute().parent}/mlflow-artifacts"
    )


def _runs_of(client: "MlflowClient", experiment: str, pipeline_run: str) -> "list[Run]":
    """Return the runs that carry the tag, the one that counts first."""
    if not _RUN_ID.fullmatch(pipeline_run):
        return []
    found = client.search_runs([experiment], filter_string=f"tags.`{_PIPELINE_RUN_TAG}` = '{pipeline_run}'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _experiment_name() -> str:
    return os.environ.get(EXPERIMENT_VARIABLE) or "searchr1"
