"""Room for what a training pod writes: its disk limits hold together, and nothing large goes where little fits."""

import os

import pytest
import yaml

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from manifests.validation.__main__ import complaints
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
