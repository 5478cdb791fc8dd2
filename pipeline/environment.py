"""What each task finds in its environment on a cluster: names of objects that manifests/ describes, never values.

kfp.local ignores all of it but plain variables: there the environment is the command's own.
"""

from kfp import kubernetes
from kfp.dsl import PipelineTask

CONFIG_MAP = "searchr1-config"
REQUIRED_CONFIG = ("AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY")
OPTIONAL_CONFIG = ("AWS_ENDPOINT_URL", "SEARCHR1_KFP_UI_URL", "SEARCHR1_MLFLOW_UI_URL")
"""A bucket on Amazon needs no endpoint; the others are addresses as people reach them, for links that steps write."""
OPTIONAL_SECRETS = {
    "searchr1-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "searchr1-hub": ("HF_TOKEN",),
}
"""Secret -> keys; an account with a role of its own needs no keys, public models no token."""
WEBHOOK_SECRET, WEBHOOK_KEY = "searchr1-webhook", "SEARCHR1_WEBHOOK_URL"
"""Read by the exit handler alone: whoever knows the address may write to the channel behind it."""
RUN_ID_LABEL = "metadata.labels['pipeline/runid']"
POD = {
    "SEARCHR1_POD_NAME": "metadata.name",
    "SEARCHR1_POD_UID": "metadata.uid",
    "SEARCHR1_POD_NAMESPACE": "metadata.namespace",
}
"""For a task that starts a training job: the job is owned by the pod and ends with it."""


def give_environment(task: PipelineTask, retries: int, knows_pod: bool = False) -> PipelineTask:
    """Return `task` with settings of the installation, credentials, its name and the id of its run."""
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, _same(REQUIRED_CONFIG))
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, _same(OPTIONAL_CONFIG), optional=True)
    secrets = OPTIONAL_SECRETS | ({WEBHOOK_SECRET: (WEBHOOK_KEY,)} if task.name == "notify" else {})
    for secret, keys in secrets.items():
        kubernetes.use_secret_as_env(task, secret, _same(keys), optional=True)
    fields = {"SEARCHR1_RUN_ID": RUN_ID_LABEL, "KFP_RUN_ID": RUN_ID_LABEL} | (POD if knows_pod else {})
    for name, field in fields.items():
        kubernetes.use_field_path_as_env(task, name, field)
    task.set_env_variable("SEARCHR1_TASK", task.name)
    return task.set_env_variable("SEARCHR1_RETRIES", str(retries))


def _same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}
