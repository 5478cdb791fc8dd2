"""The TrainJob of a training: its name and the object that the cluster is asked to make of it.

Kubeflow Trainer 2.3 (`trainer.kubeflow.org/v1alpha1`) against a TrainingRuntime of the same namespace. Image, volumes,
credentials and account are the runtime's; a job adds how many, how large, and what to train.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from components.train.config import TrainConfig

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
GPU = "nvidia.com/gpu"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
RUN_LABEL = "searchr1/run-id"
"""On the job and its pods: by it a cost report or a search for pods finds what a run of the pipeline took."""
RUN_ID_VARIABLE = "SEARCHR1_RUN_ID"
FORWARDED = (RUN_ID_VARIABLE, "KFP_RUN_ID", "MLFLOW_RUN_ID", "SEARCHR1_MLFLOW_PARENT_RUN_ID")
"""Environment of the step that its ranks get too. Credentials are not among them: the runtime has its own."""
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
SHUTDOWN_S = 570
"""What torchrun leaves its ranks after SIGTERM (30 s by itself): less than the pods' 600 s of grace."""


def job_name(run_id: str, work_key: str) -> str:
    """Return the job's name, the same for every attempt of a run at the same work."""
    return f"sr1-{hashlib.sha1(f'{run_id}/{work_key}'.encode()).hexdigest()[:10]}"


def train_job(
    config: TrainConfig, name: str, folder_uri: str, index_manifest_uri: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the job that trains what the folder at `folder_uri` describes; see manifests/samples/train-job.yaml.

    `environment` is that of the step: the run's identity and the step's pod, which will own the job, are read there.
    """
    run_labels = _run_labels(environment)
    labels = {"app.kubernetes.io/part-of": "searchr1"} | run_labels
    if config.launch.queue:
        labels[QUEUE_LABEL] = config.launch.queue
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": config.launch.runtime},
        "activeDeadlineSeconds": config.launch.deadline_s,
        "trainer": {
            "command": ["torchrun", f"--shutdown-timeout={SHUTDOWN_S}", "-m", "components.train.node"],
            "args": [folder_uri],
            "numNodes": config.parallel.num_nodes,
            "numProcPerNode": config.parallel.ranks_per_node,
            "resourcesPerNode": _resources(config),
            "env": _environment(config, environment),
        },
    }
    if config.launch.queue:
        # Kueue lets the job go when there is room.
        spec["suspend"] = True
    if patched := _patched_jobs(run_labels, index_manifest_uri if config.launch.retriever_in_job else ""):
        patch = {"template": {"spec": {"replicatedJobs": patched}}}
        spec["runtimePatches"] = [{"manager": "searchr1/pipeline", "trainingRuntimeSpec": patch}]
    metadata = {"name": name, "labels": labels, "ownerReferences": owners(environment)}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def owners(environment: Mapping[str, str] = os.environ) -> list[dict[str, str]]:
    """Return the reference to this step's pod, so that the job goes when it does; none outside a cluster."""
    name, uid = environment.get("SEARCHR1_POD_NAME", ""), environment.get("SEARCHR1_POD_UID", "")
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}] if name and uid else []


def _run_labels(environment: Mapping[str, str]) -> dict[str, str]:
    run_id = environment.get(RUN_ID_VARIABLE, "")
    return {RUN_LABEL: run_id} if _LABEL_VALUE.fullmatch(run_id) else {}


def _patched_jobs(run_labels: Mapping[str, str], index_manifest_uri: str) -> list[dict[str, Any]]:
    """Return what differs from the runtime: the run on every pod, and which index a retriever of the job serves.

    Patches cannot set variables of the ranks, which the Trainer's webhook keeps to itself.
    """
    metadata = {"metadata": {"labels": dict(run_labels)}} if run_labels else {}
    pods = {"node": metadata}
    if index_manifest_uri:
        variable = {"name": "SEARCHR1_INDEX_MANIFEST_URI", "value": index_manifest_uri}
        pods["retriever"] = metadata | {"spec": {"containers": [{"name": "retriever", "env": [variable]}]}}
    return [{"name": name, "template": {"spec": {"template": pod}}} for name, pod in pods.items() if pod]


def _resources(config: TrainConfig) -> dict[str, dict[str, str]]:
    gpus = {GPU: str(config.parallel.gpus_per_node)} if config.parallel.gpus_per_node else {}
    memory = {"memory": config.launch.memory}
    return {"requests": {"cpu": config.launch.cpu} | memory | gpus, "limits": memory | gpus}


def _environment(config: TrainConfig, environment: Mapping[str, str]) -> list[dict[str, str]]:
    values = {name: environment[name] for name in FORWARDED if environment.get(name)}
    values["OMP_NUM_THREADS"] = str(config.threads)
    return [{"name": name, "value": value} for name, value in values.items()]
