"""What the account of a run may do, asked of the server that decides."""

import pytest

from tests.cluster.kubernetes import account

pytestmark = pytest.mark.cluster
ALLOWED = [
    *((verb, "trainjobs.trainer.kubeflow.org") for verb in ("create", "get", "list", "watch", "patch", "delete")),
    *((verb, "trainingruntimes.trainer.kubeflow.org") for verb in ("get", "list")),
    *((verb, kind) for verb in ("get", "list", "watch") for kind in ("pods", "pods/log", "events")),
    *((verb, "workloads.kueue.x-k8s.io") for verb in ("get", "list")),
]
REFUSED = [
    ("get", "secrets"),
    ("list", "secrets"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("delete", "pods"),
    ("update", "trainjobs.trainer.kubeflow.org"),
    ("deletecollection", "trainjobs.trainer.kubeflow.org"),
    ("create", "trainingruntimes.trainer.kubeflow.org"),
    ("patch", "workloads.kueue.x-k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
]


def can(cluster, objects, verb, kind, namespace) -> str:
    resource, _, part = kind.partition("/")
    options = ("--subresource", part) if part else ()
    return cluster.kubectl(
        "auth", "can-i", verb, resource, *options, "-n", namespace, "--as", account(objects)
    ).stdout.strip()


@pytest.mark.parametrize(("verb", "kind"), ALLOWED)
def test_launcher_may(verb, kind, cluster, launching, namespace):
    assert can(cluster, launching, verb, kind, namespace) == "yes"


@pytest.mark.parametrize(("verb", "kind"), REFUSED)
def test_launcher_may_not(verb, kind, cluster, launching, namespace):
    assert can(cluster, launching, verb, kind, namespace) == "no"


def test_launcher_may_nothing_in_another_namespace(cluster, launching):
    assert can(cluster, launching, "create", "trainjobs.trainer.kubeflow.org", "default") == "no"


def test_training_pods_may_nothing_at_all(cluster, launching, namespace):
    trainer = f"system:serviceaccount:{namespace}:searchr1-trainer"
    for verb, kind in ALLOWED:
        said = cluster.kubectl("auth", "can-i", verb, kind.partition("/")[0], "-n", namespace, "--as", trainer)
        assert said.stdout.strip() == "no", (verb, kind)
