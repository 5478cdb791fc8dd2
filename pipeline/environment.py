"""What each task finds in its environment on a cluster: names of objects that manifests/ describes, never values.

kfp.local ignores all of it: there the environment is the command's own.
"""

from kfp import kubernetes
from kfp.dsl import PipelineTask

CONFIG_MAP = "searchr1-config"
REQUIRED_CONFIG = ("AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY")
OPTIONAL_CONFIG = ("AWS_ENDPOINT_URL",)
"""A bucket on Amazon needs no endpoint."""
OPTIONAL_SECRETS = {
    "searchr1-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "searchr1-hub": ("HF_TOKEN",),
}
"""Secret -> keys; an account with a role of its own needs no keys, public models no token."""
RUN_ID_LABEL = "metadata.labels['pipeline/runid']"


def give_environment(task: PipelineTask) -> PipelineTask:
    """Return `task` with settings of the installation, credentials and the id of its run in its environment."""
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, _same(REQUIRED_CONFIG))
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, _same(OPTIONAL_CONFIG), optional=True)
    for secret, keys in OPTIONAL_SECRETS.items():
        kubernetes.use_secret_as_env(task, secret, _same(keys), optional=True)
    for name in ("SEARCHR1_RUN_ID", "KFP_RUN_ID"):
        kubernetes.use_field_path_as_env(task, name, RUN_ID_LABEL)
    return task


def _same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}
