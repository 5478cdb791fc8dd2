"""Names in MLflow's model registry that several steps agree on, and a look at what its aliases point to."""

import os

from components.contracts.errors import UserError
from components.tracking.client import TRACKING_URI_VARIABLE, open_client, tracking_boundary

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
CORPUS_VERSION_TAG = "corpus_version"
"""Tag of a model version: the version of the corpus it was trained on, as the resolve step found it."""


def registry_uri() -> str:
    """Return the address of the registry.

    Raises:
        UserError: no tracking server is configured.
    """
    if uri := os.environ.get(TRACKING_URI_VARIABLE, ""):
        return uri
    raise UserError(
        "MLFLOW_TRACKING_URI is not set, so there is no model registry",
        "an MLflow server's URL, or sqlite:////absolute/path/mlflow.db",
        "set it, or start with `searchr1 run`, which uses a SQLite file",
    )


def corpus_versions(model_name: str) -> dict[str, tuple[str, str]]:
    """Return alias -> (model version, corpus version); empty for a model that does not exist yet.

    The corpus version of a model version that has none is an empty text.

    Raises:
        UserError: no tracking server is configured.
        TrackingError: the tracking server cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    uri = registry_uri()
    client = open_client(uri)
    with tracking_boundary(uri):
        try:
            aliases = client.get_registered_model(model_name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        versions = {alias: client.get_model_version(model_name, str(number)) for alias, number in aliases.items()}
    return {alias: (str(found.version), found.tags.get(CORPUS_VERSION_TAG, "")) for alias, found in versions.items()}
