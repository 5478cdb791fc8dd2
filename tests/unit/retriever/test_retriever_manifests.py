"""Settings, ports and pages of the service are those that the manifests count on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.contracts.config import parse_overrides, read_config_file
from components.retriever.app import PATHS
from components.retriever.config import RetrieverConfig
from components.retriever.main import MANIFEST_VARIABLE
from components.search.config import SearchConfig
from components.search.open import RETRIEVER_VARIABLE

MANIFESTS = Path(__file__).parents[3] / "manifests"


def read(path: str) -> Any:
    return yaml.safe_load((MANIFESTS / path).read_text())


def patches() -> list[dict]:
    return read("components/retriever-in-job/runtime-patch.yaml")


def deployment_pod() -> dict:
    return read("base/retriever/deployment.yaml")["spec"]["template"]["spec"]


def job_pod() -> dict:
    added = next(patch["value"] for patch in patches() if patch["path"].endswith("/replicatedJobs/0"))
    return added["template"]["spec"]["template"]["spec"]


def deployment_config() -> RetrieverConfig:
    return RetrieverConfig.parse(
        read_config_file(MANIFESTS / "base" / "retriever" / "retriever.toml"), "retriever.toml"
    )


def job_config() -> RetrieverConfig:
    option, settings = job_pod()["containers"][0]["args"]
    assert option == "--set"
    return RetrieverConfig.parse(parse_overrides(settings), "args")


PODS = [
    pytest.param(deployment_pod, deployment_config, id="shared"),
    pytest.param(job_pod, job_config, id="in a job"),
]


@pytest.mark.parametrize(("pod", "config"), PODS)
def test_the_container_runs_the_service_on_the_port_it_opens(pod, config):
    container = pod()["containers"][0]
    assert container["command"] == ["python", "-m", "components.retriever"]
    assert [port["containerPort"] for port in container["ports"]] == [config().port]
    assert config().host == "0.0.0.0"


@pytest.mark.parametrize(("pod", "config"), PODS)
def test_the_probes_ask_pages_that_exist(pod, config):
    container = pod()["containers"][0]
    asked = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert asked == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert set(asked.values()) <= set(PATHS)


@pytest.mark.parametrize(("pod", "config"), PODS)
def test_answers_under_way_fit_into_the_grace_period(pod, config):
    before = pod()["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert before + config().shutdown_s < pod()["terminationGracePeriodSeconds"]


def test_only_an_evicted_service_of_a_job_counts_as_failed():
    assert (deployment_config().exit_code_when_stopped, job_config().exit_code_when_stopped) == (0, 143)


def test_prometheus_scrapes_a_page_that_exists():
    endpoints = read("components/servicemonitor/service-monitor.yaml")["spec"]["endpoints"]
    assert {endpoint["path"] for endpoint in endpoints} <= set(PATHS)


def test_the_deployment_reads_the_file_that_is_mounted():
    pod = deployment_pod()
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert pod["containers"][0]["args"] == ["--config", f"{mounts['config']}/retriever.toml"]


def test_training_pods_learn_the_address_of_the_retriever_of_their_job():
    added = [patch["value"] for patch in patches() if patch["path"].endswith("/env/-")]
    assert [entry["name"] for entry in added] == ["JOBSET_NAME", RETRIEVER_VARIABLE]
    url = added[1]["value"].replace("$(JOBSET_NAME)", "sr1-0123456789")
    assert SearchConfig(retriever_url=url).retriever_url == "http://sr1-0123456789-retriever-0-0.sr1-0123456789:8000"


def test_the_sample_job_names_the_index_as_the_service_reads_it():
    job = read("samples/train-job-with-retriever.yaml")
    replicated = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    (retriever,) = (job for job in replicated if job["name"] == "retriever")
    (container,) = retriever["template"]["spec"]["template"]["spec"]["containers"]
    assert container["name"] == job_pod()["containers"][0]["name"]
    assert [entry["name"] for entry in container["env"]] == [MANIFEST_VARIABLE]
