"""On a cluster with Kubeflow Trainer: two CPU nodes train on the small world, one of their pods is deleted, both go on.

Needs an image that the cluster can pull and a bucket that its pods and this machine reach under the same address:
`CLUSTER_TEST_IMAGE` (images/cpu), `CLUSTER_TEST_STORAGE` (s3://bucket/prefix), and `AWS_*` as always.
"""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.storage import fetch, open_storage
from components.tracking.metrics_file import read_metrics
from tests.cluster.kubernetes import Kubernetes, KubernetesObject

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
IMAGE_VARIABLE, STORAGE_VARIABLE = "CLUSTER_TEST_IMAGE", "CLUSTER_TEST_STORAGE"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
STEPS = 6
WORLD = "world://mini?seed=1"
SETTINGS = {
    "steps": STEPS,
    "questions_per_step": 16,
    "minibatches": 2,
    "save_every_steps": 1,
    "dev": {"every_steps": 3, "max_questions": 8, "min_valid_action_frac": 0.0},
    "reward": {"outcome": "f1", "format_reward": 0.1},
    "loop": {"max_searches": 2},
    "num_slots": 16,
    "threads": 1,
    "parallel": {"num_nodes": 2, "cpu_ranks": 1},
    "launch": {"backend": "trainjob", "cpu": "1", "memory": "4Gi", "deadline_s": 3000},
}
FIRST_CHECKPOINT_S, END_S = 1200.0, 1800.0


def what_is_missing(cluster: Kubernetes) -> str:
    """Return why nothing can be trained here, or an empty string."""
    if cluster.is_alone:
        return "nothing runs on an API server alone: set KUBECONFIG to a cluster with Kubeflow Trainer"
    absent = [name for name in (IMAGE_VARIABLE, STORAGE_VARIABLE, *CREDENTIALS) if not os.environ.get(name)]
    return f"{', '.join(absent)} not set: see {__name__}" if absent else ""


@pytest.fixture(scope="module")
def runtime(cluster, launching, namespace) -> None:
    """The runtime of the tests' namespace with the image and the bucket to try, sized for a small cluster."""
    if reason := what_is_missing(cluster):
        pytest.skip(reason)
    data = {name: os.environ[name] for name in CREDENTIALS}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "searchr1-s3", "namespace": namespace}}
    applied = cluster.apply([*map(sized, launching), secret | {"stringData": data}], "--force-conflicts")
    assert applied.returncode == 0, applied.stderr


def sized(item: KubernetesObject) -> KubernetesObject:
    """Return an object of the overlay as a small cluster without MLflow can use it."""
    made = copy.deepcopy(item)
    if made["kind"] == "ConfigMap":
        made["data"].pop("MLFLOW_TRACKING_URI", None)
        made["data"].pop("AWS_ENDPOINT_URL", None)
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            made["data"]["AWS_ENDPOINT_URL"] = endpoint
    if made["kind"] == "TrainingRuntime":
        pod = made["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        pod.pop("priorityClassName", None)
        for container in pod["containers"]:
            container["image"] = os.environ[IMAGE_VARIABLE]
            container["resources"] = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    return made


@pytest.fixture(scope="module")
def inputs(runtime, tmp_path_factory) -> dict[str, Path]:
    """Manifest files of the mini world, whose bytes lie in the bucket."""
    from components.base_model import main as base_model_step
    from components.base_model.config import BaseModelConfig
    from components.corpus import main as corpus_step
    from components.corpus.config import CorpusConfig
    from components.index import main as index_step
    from components.index.config import IndexConfig
    from components.questions import main as questions_step
    from components.questions.config import QuestionsConfig

    def execute(module, name, config, **given) -> Manifest:
        context = StepContext(name, os.environ[STORAGE_VARIABLE], "0" * 64, config.sha256())
        return module.run(config, context, **given).manifest

    corpus = execute(corpus_step, "corpus", CorpusConfig(uri=WORLD))
    manifests = {
        "base_model": execute(base_model_step, "base_model", BaseModelConfig()),
        "questions": execute(questions_step, "questions", QuestionsConfig(uri=WORLD)),
        "index": execute(index_step, "index", IndexConfig(threads=1, heap="256m"), corpus=corpus),
    }
    folder = tmp_path_factory.mktemp("inputs")
    for name, manifest in manifests.items():
        (folder / f"{name}.json").write_text(manifest.to_json())
    return {name: folder / f"{name}.json" for name in manifests}


def test_two_nodes_of_a_cluster_train_and_survive_the_loss_of_a_pod(cluster, namespace, inputs, tmp_path):
    settings = SETTINGS | {"seed": int(time.time())}  # never a run of an earlier test
    (tmp_path / "config.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "components.train", "--config", str(tmp_path / "config.json")]
    command += ["--storage-root", os.environ[STORAGE_VARIABLE], "--output", str(tmp_path)]
    command += [f"--input={name}={path}" for name, path in inputs.items()]
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "SEARCHR1_POD_NAMESPACE": namespace}
    before = checkpoints()
    with (tmp_path / "output.txt").open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, cwd=Path(__file__).parents[2]
        )
    try:
        limit_s = time.monotonic() + FIRST_CHECKPOINT_S
        while len(checkpoints() - before) < 2:
            assert process.poll() is None, (tmp_path / "output.txt").read_text()[-3000:]
            assert time.monotonic() < limit_s, "no checkpoint yet"
            time.sleep(2)
        delete_second_node(cluster, namespace)
        assert process.wait(timeout=END_S) == 0, (tmp_path / "output.txt").read_text()[-3000:]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=120)
    manifest = Manifest.read(tmp_path / "manifest.json")
    records = read_metrics(fetch(manifest, tmp_path / "cache") / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert {record["attempt"] for record in records} == {1, 2}


def checkpoints() -> set[str]:
    """Return the keys that complete a checkpoint in the bucket."""
    found = open_storage(os.environ[STORAGE_VARIABLE]).list("work/train")
    return {info.key for info in found if info.key.endswith("/_COMPLETE")}


def delete_second_node(cluster: Kubernetes, namespace: str) -> None:
    selector = "batch.kubernetes.io/job-completion-index=1"
    cluster.done("delete", "pod", "-n", namespace, "-l", selector, "--grace-period=0", "--force")
