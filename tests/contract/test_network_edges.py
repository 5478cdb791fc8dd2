"""The network policies let through what the parts say to each other, and nothing beside it."""

import ipaddress
import os
from dataclasses import dataclass, field

import pytest

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from components.retriever.config import RetrieverConfig
from manifests.validation.objects import named, pod_templates, selects
from manifests.validation.render import MANIFESTS, find_kubectl, render

OVERLAY = MANIFESTS / "overlays" / "multi-user"
HOME = "team-search"


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod with labels, or an address outside of the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = HOME
    address: str = ""


STEP = End({"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": "r1"})
"""Kubeflow's compiler gives both labels to every pod of a run."""
STRANGER = End({"app": "notebook"})
DNS, STORE = End(namespace="kube-system"), End(namespace="kubeflow")
PROMETHEUS = End({"app.kubernetes.io/name": "prometheus"}, "monitoring")
TRAINER_MANAGER = End({"app.kubernetes.io/name": "trainer"}, "kubeflow-system")
BUCKET, METADATA = End(address="52.216.0.1"), End(address="169.254.169.254")
RETRIEVER_PORT = RetrieverConfig.model_fields["port"].default
RENDEZVOUS, ANY_PORT = 29500, 41234
"""torchrun's, and one as the collectives and the shared counter of stolen tasks take them."""


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    kubectl = find_kubectl(tmp_path_factory.getbasetemp().parent / "kubectl")
    folder = tmp_path_factory.mktemp("overlay").resolve()
    component = os.path.relpath(MANIFESTS / "components" / "retriever-in-job", folder)
    lines = [f"resources: [{os.path.relpath(OVERLAY, folder)}]", f"components: [{component}]"]
    (folder / "kustomization.yaml").write_text("\n".join(lines))
    return render(kubectl, folder)


@pytest.fixture(scope="module")
def ours(objects):
    """Part -> its pods, by their component label."""
    return {template.labels["app.kubernetes.io/component"]: End(template.labels) for template in pod_templates(objects)}


def allows(objects, start, end, port):
    """Whether both ends let a TCP connection through."""
    sides = [(start, end, "Egress", "egress", "to"), (end, start, "Ingress", "ingress", "from")]
    return all(_lets(objects, *side, port) for side in sides)


def _lets(objects, pod, other, kind, direction, peers, port):
    if pod.address or pod.namespace != HOME:
        return True  # nothing of ours says anything about it
    specs = [policy["spec"] for policy in named(objects, "NetworkPolicy").values()]
    closing = [spec for spec in specs if kind in spec["policyTypes"] and selects(spec["podSelector"], pod.labels)]
    rules = [rule for spec in closing for rule in spec.get(direction, [])]
    return not closing or any(
        any(_is_peer(peer, other) for peer in rule[peers])
        and ("ports" not in rule or port in [entry["port"] for entry in rule["ports"]])
        for rule in rules
    )


def _is_peer(peer, other):
    if block := peer.get("ipBlock"):
        return bool(other.address) and not any(_inside(other.address, cidr) for cidr in block.get("except", []))
    if other.address:
        return False
    name = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": HOME}})
    is_there = selects(name, {"kubernetes.io/metadata.name": other.namespace})
    return is_there and selects(peer.get("podSelector", {}), other.labels)


def _inside(address, cidr):
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


NEEDED = [
    *(("trainer", "trainer", port) for port in (RENDEZVOUS, ANY_PORT)),
    *((part, "retriever", RETRIEVER_PORT) for part in ("trainer", STEP, PROMETHEUS)),
    *((part, "mlflow", 5000) for part in ("trainer", STEP)),
    *((part, BUCKET, 443) for part in ("trainer", "retriever", "job-retriever", "mlflow", STEP)),
    *((part, STORE, 8333) for part in ("trainer", "retriever", "job-retriever", "mlflow", STEP)),
    *((part, DNS, 53) for part in ("trainer", "retriever", "job-retriever", "mlflow", "postgresql")),
    ("trainer", "job-retriever", RETRIEVER_PORT),
    ("mlflow", "postgresql", 5432),
    ("trainer", TRAINER_MANAGER, 10443),
    # The webhook of the exit handler, the Kubernetes API of the launcher: Kubeflow's own pods are not closed.
    *((STEP, End(address="203.0.113.5"), port) for port in (443, 6443, 8443)),
]
REFUSED = [
    *((part, "postgresql", 5432) for part in ("trainer", "retriever", STEP, STRANGER)),
    *((STRANGER, part, port) for part, port in {"retriever": 8000, "mlflow": 5000, "trainer": RENDEZVOUS}.items()),
    *((part, METADATA, 443) for part in ("trainer", "retriever", "job-retriever", "mlflow")),
    ("trainer", BUCKET, 80),
    ("retriever", TRAINER_MANAGER, 10443),
    ("trainer", STORE, 10443),
    ("retriever", "mlflow", 5000),
    ("postgresql", BUCKET, 443),
    (STEP, "trainer", RENDEZVOUS),
    # A job's retriever is that job's: steps ask the shared one.
    (STEP, "job-retriever", RETRIEVER_PORT),
    (PROMETHEUS, "mlflow", 5000),
]


def _ends(ours, edge):
    start, end, port = edge
    return *(ours[one] if isinstance(one, str) else one for one in (start, end)), port


def test_every_edge_that_a_part_needs_is_open(objects, ours):
    assert [edge for edge in NEEDED if not allows(objects, *_ends(ours, edge))] == []


def test_no_other_edge_is(objects, ours):
    assert [edge for edge in REFUSED if allows(objects, *_ends(ours, edge))] == []


def test_every_part_of_ours_is_asked_about(ours):
    asked = {end for edge in (*NEEDED, *REFUSED) for end in edge[:2] if isinstance(end, str)}
    assert asked == set(ours)


@pytest.mark.parametrize("policy", ["searchr1-trainer", "searchr1-dns", "searchr1-object-storage", "searchr1-metrics"])
def test_a_policy_that_is_missed_is_noticed(objects, ours, policy):
    fewer = [item for item in objects if item["metadata"]["name"] != policy]
    assert [edge for edge in NEEDED if not allows(fewer, *_ends(ours, edge))] != []
