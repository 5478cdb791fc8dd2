"""The compiled pipeline names ConfigMaps, Secrets and images; the manifests hold what it names."""

from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import dsl, kubernetes
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components.contracts.errors import ConfigError
from pipeline.compiled import compile_pipeline
from pipeline.resources import CACHE_MOUNT, GPU, GPU_TOLERATION, RESOURCES, Resources, cache_mount, with_gpus

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
IMAGE = "registry.example/searchr1-cpu:git-0123abc"
GPU_IMAGE = f"registry.example:5000/searchr1-gpu@sha256:{'0' * 64}"


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


def test_every_step_knows_its_run_and_those_that_start_jobs_their_pod(executors):
    run, pod = {"SEARCHR1_RUN_ID", "KFP_RUN_ID"}, {f"SEARCHR1_POD_{part}" for part in ("NAME", "UID", "NAMESPACE")}
    for name, executor in executors.items():
        starts_jobs = name.startswith("exec-train") or name == "exec-evaluate"
        assert {entry["name"] for entry in executor["fieldPathAsEnv"]} == run | (pod if starts_jobs else set())
        assert ("emptyDirMounts" in executor) == starts_jobs
    paths = {entry["name"]: entry["fieldPath"] for entry in executors["exec-train"]["fieldPathAsEnv"]}
    assert paths["SEARCHR1_POD_UID"] == "metadata.uid"


def test_only_the_exit_handler_knows_the_webhook(executors):
    readers = {
        name
        for name, executor in executors.items()
        for entry, _ in entries(executor, "secretAsEnv")
        if entry["secretName"] == "searchr1-webhook" and entry["optional"]
    }
    assert readers == {"exec-notify"}


def test_gpus_come_with_their_image_and_what_feeds_them(tmp_path):
    compile_pipeline(tmp_path / "gpu.yaml", IMAGE, GPU_IMAGE, {"train": 8, "evaluate": 1})
    pipeline, platform = yaml.safe_load_all((tmp_path / "gpu.yaml").read_text())
    json_format.ParseDict(pipeline, PipelineSpec())
    containers = {name: executor["container"] for name, executor in pipeline["deploymentSpec"]["executors"].items()}
    gpus = {
        name: container["resources"]["accelerator"]["resourceCount"]
        for name, container in containers.items()
        if "accelerator" in container["resources"]
    }
    trainings = {f"exec-train{method}": "8" for method in ("", "-rl-no-search", "-sft", "-rejection-sampling")}
    assert gpus == {**trainings, "exec-evaluate": "1"}
    assert {name for name, container in containers.items() if container["image"] == GPU_IMAGE} == set(gpus)
    assert containers["exec-train"]["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert containers["exec-train"]["resources"]["resourceMemoryLimit"] == "768Gi"
    assert containers["exec-train"]["resources"]["resourceCpuRequest"] == "64"
    mounts = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["emptyDirMounts"]
    assert mounts == [{"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory"}]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    tolerant = {name: executor["tolerations"] for name, executor in executors.items() if "tolerations" in executor}
    assert set(tolerant) == set(gpus)
    assert json_format.ParseDict(executors["exec-train"], KubernetesExecutorConfig()).tolerations[0].key == GPU


@pytest.mark.parametrize("task", RESOURCES)
def test_every_step_has_its_share_a_limit_of_memory_and_a_deadline(compiled, executors, task):
    given = RESOURCES[task]
    asked = compiled[0]["deploymentSpec"]["executors"][f"exec-{task}"]["container"]["resources"]
    assert (asked["resourceCpuRequest"], asked["resourceMemoryRequest"]) == (given.cpu, given.memory)
    assert asked["resourceMemoryLimit"] == given.memory
    assert int(executors[f"exec-{task}"]["activeDeadlineSeconds"]) == given.timeout_s


def test_no_gpus_are_no_change(tmp_path):
    compile_pipeline(tmp_path / "none.yaml", IMAGE)
    compile_pipeline(tmp_path / "zero.yaml", IMAGE, GPU_IMAGE, {"train": 0, "evaluate": 0})
    assert (tmp_path / "zero.yaml").read_bytes() == (tmp_path / "none.yaml").read_bytes()


def test_a_gpu_takes_nothing_away_from_a_task():
    given = with_gpus(Resources("Large", "24", "200Gi", timeout_s=60), 1)
    assert (given["resourceCpuRequest"], given["resourceMemoryRequest"]) == ("24", "200Gi")
    assert given["resourceMemoryLimit"] == "200Gi"


def test_gpus_are_written_as_the_sdk_writes_them(tmp_path):
    """The two names of each entry: newer servers read one, older ones the other."""

    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def work():
        pass

    @dsl.pipeline
    def one():
        task = work().set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
        task.set_cpu_request("16").set_memory_request("192Gi").set_memory_limit("192Gi")

    (executor,) = one.pipeline_spec.deployment_spec["executors"].values()
    expected = json_format.MessageToDict(executor)["container"]["resources"]
    compile_pipeline(tmp_path / "gpu.yaml", IMAGE, GPU_IMAGE, {"train": 2})
    pipeline = next(yaml.safe_load_all((tmp_path / "gpu.yaml").read_text()))
    assert pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"] == expected


def test_a_claim_keeps_what_steps_fetch(tmp_path):
    compile_pipeline(tmp_path / "cache.yaml", IMAGE, cache_claim="searchr1-cache")
    pipeline, platform = yaml.safe_load_all((tmp_path / "cache.yaml").read_text())
    cached = {
        name
        for name, executor in pipeline["deploymentSpec"]["executors"].items()
        if {"name": "SEARCHR1_CACHE", "value": "/cache"} in executor["container"]["env"]
    }
    mounts = {
        name: json_format.ParseDict(executor, KubernetesExecutorConfig()).pvc_mount
        for name, executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()
        if "pvcMount" in executor
    }
    assert cached == set(mounts) == {f"exec-{name}" for name, given in RESOURCES.items() if given.fetches_much}
    assert {"exec-index", "exec-train", "exec-evaluate"} <= cached
    assert {(mount.constant, mount.mount_path) for (mount,) in mounts.values()} == {("searchr1-cache", "/cache")}
    compile_pipeline(tmp_path / "again.yaml", IMAGE)
    assert "searchr1-cache" not in (tmp_path / "again.yaml").read_text()


def test_claim_and_toleration_are_written_as_the_sdk_does_it():
    @dsl.component(base_image="python:3.11", install_kfp_package=False)
    def work():
        pass

    @dsl.pipeline
    def one():
        task = work()
        kubernetes.mount_pvc(task, pvc_name="claim", mount_path=CACHE_MOUNT)
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")

    executors = one.platform_spec.platforms["kubernetes"].deployment_spec.executors
    assert json_format.MessageToDict(executors["exec-work"]) == {
        "pvcMount": [cache_mount("claim")],
        "tolerations": [GPU_TOLERATION],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"cache_claim": "My Claim"}, "no name of a claim", id="claim"),
        pytest.param({"image": "registry.example/cpu"}, "--image .* floats", id="no tag"),
        pytest.param({"image": "registry.example:5000/cpu"}, "--image .* floats", id="a port is no tag"),
        pytest.param({"image": "registry.example/cpu:latest"}, "--image .* floats", id="latest"),
        pytest.param({"image": "registry.example/cpu@sha256:123"}, "--image .* floats", id="a digest cut short"),
        pytest.param({"gpu_image": "gpu", "gpus": {"train": 1}}, "--gpu-image gpu floats", id="gpu image"),
        pytest.param({"gpus": {"train": 1}}, "no image", id="gpus without an image"),
        pytest.param({"gpu_image": GPU_IMAGE, "gpus": {"trian": 1}}, "did you mean 'train'", id="unknown task"),
        pytest.param({"gpu_image": GPU_IMAGE, "gpus": {"train": -1}}, "0 or more", id="negative"),
    ],
)
def test_what_would_not_run_or_would_not_stay_the_same_is_refused(arguments, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        compile_pipeline(tmp_path / "no.yaml", **arguments)
    assert not (tmp_path / "no.yaml").exists()


@pytest.mark.parametrize(("image", "is_warned"), [(IMAGE, True), (GPU_IMAGE, False)], ids=["tag", "digest"])
def test_a_tag_is_taken_with_a_warning(image, is_warned, tmp_path, capsys):
    compile_pipeline(tmp_path / "x.yaml", image)
    assert ("pinned by a tag only" in capsys.readouterr().err) == is_warned


def test_finished_runs_leave_the_cluster_in_the_end(compiled):
    assert compiled[1]["platforms"]["kubernetes"]["pipelineConfig"] == {"resourceTtlOnCompletion": 14 * 24 * 3600}
