"""The compiled pipeline names ConfigMaps, Secrets and images; the manifests hold what it names."""

from pathlib import Path

import pytest
import yaml

from pipeline.compiled import compile_pipeline
from pipeline.resources import RESOURCES

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
IMAGE = "registry.example/searchr1-cpu:git-0123abc"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path, IMAGE)
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def executors(compiled):
    return compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def entries(executor, kind):
    return [(entry, pair) for entry in executor.get(kind, []) for pair in entry["keyToEnv"]]


def test_every_step_runs_in_the_given_image(compiled):
    executors = compiled[0]["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {IMAGE}
    assert len(executors) == len(RESOURCES)


def test_an_image_is_for_one_compilation_only(compiled, tmp_path):
    compile_pipeline(tmp_path / "again.yaml")
    assert IMAGE not in (tmp_path / "again.yaml").read_text()


def test_config_that_steps_need_is_in_the_config_map(executors):
    config_map = yaml.safe_load((MANIFESTS / "base" / "config.yaml").read_text())
    asked = [pair for executor in executors.values() for pair in entries(executor, "configMapAsEnv")]
    assert {entry["configMapName"] for entry, _ in asked} == {config_map["metadata"]["name"]}
    required = {pair["configMapKey"] for entry, pair in asked if not entry.get("optional")}
    assert required <= set(config_map["data"])
    assert "MLFLOW_TRACKING_URI" in required


def test_optional_config_is_set_by_an_overlay(executors):
    patches = "".join(path.read_text() for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
    optional = {
        pair["configMapKey"]
        for executor in executors.values()
        for entry, pair in entries(executor, "configMapAsEnv")
        if entry.get("optional")
    }
    assert optional
    assert all(f"/data/{key}," in patches for key in optional)


def test_secrets_have_templates_with_these_keys(executors):
    templates = [yaml.safe_load(path.read_text()) for path in MANIFESTS.glob("secrets/*.yaml")]
    known = {(item["metadata"]["name"], key) for item in templates for key in item["stringData"]}
    asked = {
        (entry["secretName"], pair["secretKey"])
        for executor in executors.values()
        for entry, pair in entries(executor, "secretAsEnv")
    }
    assert asked
    assert asked <= known


def test_secret_templates_hold_no_secret():
    for path in MANIFESTS.glob("secrets/*.yaml"):
        assert set(yaml.safe_load(path.read_text())["stringData"].values()) == {"FILL_IN"}


def test_every_step_knows_its_run(executors):
    for executor in executors.values():
        assert {entry["name"] for entry in executor["fieldPathAsEnv"]} == {"SEARCHR1_RUN_ID", "KFP_RUN_ID"}
