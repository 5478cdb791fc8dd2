"""An MLflow client that gives up in seconds, and MLflow's errors in our words without secrets."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.contracts.errors import SearchR1Error, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRACKING_URI_VARIABLE = "MLFLOW_TRACKING_URI"
UI_VARIABLE = "SEARCHR1_MLFLOW_UI_URL"
"""Environment variable with the server's address as people reach it, where steps reach it by another one."""
_CREDENTIALS = re.compile(r"//[^/@\s]+@")


def open_client(tracking_uri: str, request_retries: int = 3) -> "MlflowClient":
    """Return a client for `tracking_uri`; nothing is asked of the server yet.

    `request_retries` bounds how long a dead server blocks one call (3: about 13 s, 7: about 260 s).
    """
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(request_retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with tracking_boundary(tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def tracking_boundary(tracking_uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises into ours.

    Raises:
        TrackingError: the server cannot be reached or refuses.
    """
    try:
        yield
    except SearchR1Error:
        raise
    except Exception as error:
        where = without_credentials(tracking_uri)
        raise TrackingError(f"{where}: {type(error).__name__}: {without_credentials(str(error))}") from error


def without_credentials(text: str) -> str:
    """Return `text` with the user and password of every URI in it removed."""
    return _CREDENTIALS.sub("//", text)


def run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Return where a person sees the run; for a database it only names the place."""
    return f"{ui_url(tracking_uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def ui_url(tracking_uri: str) -> str:
    """Return the address of the server for people, without credentials and without a slash at its end."""
    return without_credentials(os.environ.get(UI_VARIABLE) or tracking_uri).rstrip("/")
