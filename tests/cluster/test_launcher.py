"""Our launcher of training jobs against a real API server, with the rights of a run's account and no more."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import yaml

from components.contracts.errors import ConfigError
from components.train.config import TrainConfig
from components.train.trainjob import train_job
from components.train.trainjob_cluster import NAMESPACE_VARIABLE, Cluster, Patience
from tests.cluster.kubernetes import Kubernetes, account
from tests.unit import conftest as servers

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]
s3_endpoint, s3_root = servers.s3_endpoint, servers.s3_root
LAUNCHING = Path(__file__).parents[1] / "unit" / "train" / "launching_process.py"
SETTINGS = {"parallel": {"num_nodes": 2, "cpu_ranks": 1}, "launch": {"backend": "trainjob", "queue": "searchr1"}}
PATIENCE = Patience(watch_s=2, request_s=10, lost_contact_s=20)
WAIT_S = 60.0


def job(name: str) -> dict:
    """Return the job of a training on two CPU nodes."""
    return train_job(
        TrainConfig.parse(SETTINGS), name, "s3://bucket/job", "s3://bucket/index/manifest.json", os.environ
    )


def use(cluster: Kubernetes, namespace: str, name: str, monkeypatch, tmp_path: Path) -> None:
    """Let this process and its children be a service account, as a step's pod is; the client ignores impersonation."""
    cluster.kubectl("create", "serviceaccount", name, "-n", namespace)
    token = cluster.done("create", "token", name, "-n", namespace).stdout.strip()
    config = yaml.safe_load(cluster.done("config", "view", "--raw", "--minify", "-o", "yaml").stdout)
    for user in config["users"]:
        user["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv(NAMESPACE_VARIABLE, namespace)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def credentials(cluster, launching, namespace, monkeypatch, tmp_path) -> None:
    """The environment of a step whose account is that of the overlay's binding."""
    use(cluster, namespace, account(launching).rpartition(":")[2], monkeypatch, tmp_path)


@pytest.fixture
def launcher(credentials):
    return Cluster.connect(PATIENCE)


def test_job_is_accepted_found_adopted_and_taken_back(launcher, cluster, namespace):
    name = f"sr1-{uuid.uuid4().hex[:10]}"
    body = job(name)
    launcher.check_runtime(body["spec"]["runtimeRef"]["name"])
    assert launcher.create(body) is True
    assert launcher.create(body) is False
    found, version = launcher.job(name)
    assert found["spec"] | body["spec"] == found["spec"], "what was asked for is what is there"
    launcher.wait_for_news(name, version)
    launcher.adopt(name)
    assert launcher.pods(name) == []
    assert launcher.warnings() is not None
    assert launcher.workloads() == []
    launcher.delete(name)
    assert "deletionTimestamp" in cluster.get("trainjob", name, namespace)["metadata"]


def test_a_missing_runtime_is_named_before_anything_is_made(launcher):
    with pytest.raises(ConfigError, match="has no TrainingRuntime 'nobody'"):
        launcher.check_runtime("nobody")


def test_a_job_that_breaks_a_rule_is_the_users_to_mend(launcher):
    body = job(f"sr1-{uuid.uuid4().hex[:10]}")
    body["spec"]["trainer"]["numProcPerNode"] = 0
    with pytest.raises(ConfigError, match="numProcPerNode"):
        launcher.create(body)


def test_an_account_without_the_role_is_told_which_one_it_needs(cluster, launching, namespace, monkeypatch, tmp_path):
    use(cluster, namespace, "somebody-else", monkeypatch, tmp_path)
    somebody = Cluster.connect(PATIENCE)
    with pytest.raises(ConfigError, match=r"may not create trainjobs [\s\S]*launcher-role"):
        somebody.create(job("sr1-0"))


def test_a_step_submits_follows_and_takes_its_job_back_when_it_is_told_to_end(
    credentials, cluster, namespace, s3_root, tmp_path
):
    """The whole launcher in a process of its own; the job never runs: nobody is behind this server."""
    if not cluster.is_alone:
        pytest.skip("on a cluster the pods of this job would wait for an image that does not exist")
    environment = os.environ | {"SEARCHR1_RUN_ID": uuid.uuid4().hex, "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "output.txt"
    with output.open("w") as stream:
        command = [sys.executable, str(LAUNCHING), s3_root]
        repository = Path(__file__).parents[2]
        environment["PYTHONPATH"] = str(repository)
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, cwd=repository)
    try:
        limit_s = time.monotonic() + WAIT_S
        while " submitted, " not in output.read_text():
            assert process.poll() is None, output.read_text()[-3000:]
            assert time.monotonic() < limit_s, "nothing was submitted"
            time.sleep(0.2)
        jobs = json.loads(cluster.done("get", "trainjobs", "-n", namespace, "-o", "json").stdout)["items"]
        (ours,) = [one for one in jobs if s3_root in one["spec"]["trainer"]["args"][0]]
        assert ours["spec"]["trainer"]["numNodes"] == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == 143
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "deletionTimestamp" in cluster.get("trainjob", ours["metadata"]["name"], namespace)["metadata"]
