"""The cluster of these tests: that of `KUBECONFIG`, or an API server started from the binaries of `KUBEBUILDER_ASSETS`.

On somebody's cluster the overlays are applied as a dry run, and everything else lies in a namespace that is deleted
afterwards.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests.validation.render import MANIFESTS, overlay_names, render
from tests.cluster.api_server import ASSETS_VARIABLE, api_server, find_kubectl, missing
from tests.cluster.kubernetes import Kubernetes, KubernetesObject, listed, moved

DEFINITIONS_VARIABLE = "CLUSTER_TEST_CRDS"
"""Environment variable naming a file or folder of the real custom resource definitions, for a server of our own."""
NEITHER = (
    "no cluster: set KUBECONFIG to one (a namespace is made and deleted there, the rest is a dry run), "
    f"or {ASSETS_VARIABLE} to a folder with kube-apiserver and etcd"
)
DEFINITIONS = os.environ.get(DEFINITIONS_VARIABLE, "")
OLDEST_MINOR = 33
"""Of Kubernetes 1, as manifests/validation has it: older servers know neither all fields nor all rules."""
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def why_not(environment: dict[str, str]) -> str:
    """Return why there is nothing to test on, or an empty string."""
    if find_kubectl() is None:
        return "no kubectl on this machine"
    if environment.get("KUBECONFIG"):
        return ""
    assets = environment.get(ASSETS_VARIABLE, "")
    return missing(Path(assets)) if assets else NEITHER


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Kubernetes]:
    if reason := why_not(dict(os.environ)):
        pytest.skip(reason)
    kubectl = find_kubectl()
    if kubeconfig := os.environ.get("KUBECONFIG"):
        yield checked(Kubernetes(kubectl, Path(kubeconfig), is_alone=False))
        return
    with api_server(Path(os.environ[ASSETS_VARIABLE]), tmp_path_factory.mktemp("api-server") / "data") as kubeconfig:
        alone = checked(Kubernetes(kubectl, kubeconfig, is_alone=True))
        _define(alone)
        yield alone


def checked(cluster: Kubernetes) -> Kubernetes:
    """Return the cluster, which has to be new enough."""
    minor = cluster.minor_version()
    if minor < OLDEST_MINOR:
        pytest.fail(f"this is Kubernetes 1.{minor}; the manifests are for 1.{OLDEST_MINOR} and newer", pytrace=False)
    return cluster


def _define(alone: Kubernetes) -> None:
    if DEFINITIONS:
        alone.done("apply", "--server-side", "--recursive", "-f", DEFINITIONS)
    else:
        from tests.cluster.custom_resources import definitions

        alone.done("apply", "--server-side", "-f", "-", given=listed(definitions()))
    alone.done("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


@pytest.fixture(scope="session")
def overlays(cluster) -> dict[str, list[KubernetesObject]]:
    """Overlay -> its objects."""
    return {name: render(cluster.kubectl_path, MANIFESTS / "overlays" / name) for name in overlay_names()}


@pytest.fixture(scope="session")
def namespace(cluster) -> Iterator[str]:
    """A namespace of the tests' own, in which only pods of restricted security may run."""
    name = f"searchr1-test-{uuid.uuid4().hex[:8]}"
    labels = RESTRICTED
    cluster.done(
        "create",
        "-f",
        "-",
        given={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
    )
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def launching(cluster, overlays, namespace) -> list[KubernetesObject]:
    """What a step that launches needs, applied in the namespace: runtime, role, binding."""
    wanted = {"TrainingRuntime", "Role", "RoleBinding", "ConfigMap", "ServiceAccount"}
    objects = moved([item for item in overlays["standalone-kfp"] if item["kind"] in wanted], namespace)
    known = cluster.served_kinds()
    if lacking := {item["kind"] for item in objects if (item["apiVersion"], item["kind"]) not in known}:
        pytest.skip(f"the cluster does not know {', '.join(sorted(lacking))}: Kubeflow Trainer is not installed")
    applied = cluster.apply(objects)
    assert applied.returncode == 0, applied.stderr
    return objects
