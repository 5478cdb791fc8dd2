"""Training pods have room for what they write and restart together; commands in the manifests name what exists."""

import copy
import os
from fnmatch import fnmatch
from importlib.util import find_spec
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
import yaml

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from manifests.validation.__main__ import complaints
from manifests.validation.objects import named, pod_templates
from manifests.validation.references import surroundings
from manifests.validation.render import MANIFESTS, find_kubectl, render

OVERLAY = MANIFESTS / "overlays" / "standalone-kfp"
GIB = 2**30
UNITS = {"Gi": GIB, "Mi": 2**20, "Ti": 2**40}


@pytest.fixture(scope="module")
def laid_over(tmp_path_factory):
    """Return the objects of an overlay with more components."""
    kubectl = find_kubectl(tmp_path_factory.getbasetemp().parent / "kubectl")

    def objects(*components):
        folder = tmp_path_factory.mktemp("overlay").resolve()
        lines = [f"resources: [{os.path.relpath(OVERLAY, folder)}]"]
        lines += ["components:"] if components else []
        lines += [f"- {os.path.relpath(MANIFESTS / 'components' / name, folder)}" for name in components]
        (folder / "kustomization.yaml").write_text("\n".join(lines))
        return render(kubectl, folder)

    return objects


def node_of(objects):
    """Return the pod of the ranks, and its container."""
    runtime = next(item for item in objects if item["kind"] == "TrainingRuntime")
    jobs = {job["name"]: job for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]}
    pod = jobs["node"]["template"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def size(text):
    return int(text[:-2]) * UNITS[text[-2:]]


def volume_at(path, pod, container):
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    return next(volume for volume in pod["volumes"] if volume["name"] == mounts[path])


SETS = [(), ("gpu-nvidia",), ("gpu-nvidia", "cache-claim"), ("gpu-nvidia", "cache-claim", "retriever-in-job")]


@pytest.mark.parametrize("components", SETS, ids=lambda names: "+".join(names) or "base")
def test_disk_limits_hold_together(laid_over, components):
    pod, container = node_of(laid_over(*components))
    folders = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
    on_disk = sum(size(folder["sizeLimit"]) for folder in folders if folder.get("medium") != "Memory")
    assert on_disk < size(container["resources"]["limits"]["ephemeral-storage"])


@pytest.mark.parametrize("components", SETS, ids=lambda names: "+".join(names) or "base")
def test_large_temporary_files_have_room(laid_over, components):
    """Python's temporary files go where TMPDIR says; /tmp would evict the pod with its first large checkpoint."""
    pod, container = node_of(laid_over(*components))
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    room = volume_at(environment["TMPDIR"], pod, container)["emptyDir"]["sizeLimit"]
    assert size(room) >= (400 if "gpu-nvidia" in components else 100) * GIB


def test_a_claim_keeps_what_training_pods_fetch(laid_over):
    objects = laid_over("gpu-nvidia", "cache-claim")
    assert complaints(objects, surroundings(OVERLAY)) == []
    pod, container = node_of(objects)
    cache = next(entry["value"] for entry in container["env"] if entry["name"] == "SEARCHR1_CACHE")
    assert volume_at(cache, pod, container)["persistentVolumeClaim"] == {"claimName": "searchr1-cache"}
    claim = yaml.safe_load((MANIFESTS / "components" / "cache-claim" / "claim.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def runtime_of(objects):
    return named(objects, "TrainingRuntime")["searchr1-train"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda spec: spec.pop("failurePolicy"), "one lost rank ends the job", id="no restarts"),
        pytest.param(lambda spec: spec.update(ttlSecondsAfterFinished=60), "anew for ever", id="deleted when finished"),
        pytest.param(
            lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(backoffLimit=3),
            "one by one",
            id="back-off",
        ),
        pytest.param(
            lambda spec: spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"].update(
                restartPolicy="OnFailure"
            ),
            "one by one",
            id="restart in place",
        ),
    ],
)
def test_ranks_restart_together(laid_over, change, said):
    objects = copy.deepcopy(laid_over())
    change(runtime_of(objects))
    assert said in "\n".join(complaints(objects, surroundings(OVERLAY)))


def test_every_module_that_a_command_names_exists(laid_over):
    samples = yaml.safe_load_all((MANIFESTS / "samples" / "retrain-on-upload.yaml").read_text())
    sensor = next(item for item in samples if item["kind"] == "Sensor")
    job = sensor["spec"]["triggers"][0]["template"]["k8s"]["source"]["resource"]
    job_spec = {**job, "metadata": {"name": "submit"}}
    named_modules = set()
    for template in pod_templates([*laid_over("retriever-in-job"), job_spec]):
        for _, container in template.containers():
            command = container.get("command", [])
            named_modules |= {after for option, after in pairwise(command) if option == "-m"}
    assert named_modules == {"components.retriever", "components.train.node", "pipeline.cli"}
    assert [module for module in named_modules if find_spec(module) is None] == []


def test_mlflow_answers_to_the_name_that_steps_know_it_by(laid_over):
    """Another Host header is answered 403 while /health stays green; the pattern has to cover the port."""
    objects = laid_over()
    address = urlsplit(named(objects, "ConfigMap")["searchr1-config"]["data"]["MLFLOW_TRACKING_URI"])
    (server,) = named(objects, "Deployment")["searchr1-mlflow"]["spec"]["template"]["spec"]["containers"]
    option = next(part for part in server["args"] if part.startswith("--allowed-hosts="))
    patterns = option.partition("=")[2].split(",")
    for host in (address.netloc, "localhost:5000"):
        assert any(fnmatch(host, pattern) for pattern in patterns)
    assert named(objects, "Service")[address.hostname]["spec"]["ports"][0]["port"] == address.port
