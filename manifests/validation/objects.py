"""Kubernetes objects as plain dictionaries, and the pods inside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KubernetesObject = dict[str, Any]

WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


@dataclass(frozen=True)
class PodTemplate:
    """The pods that one object makes."""

    where: str
    """Kind and name of that object."""
    labels: dict[str, str]
    spec: dict[str, Any]
    claim_templates: frozenset[str]
    """Names of volumes that a StatefulSet adds to its pods."""

    def containers(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (place for a message, container), init containers first."""
        for group in ("initContainers", "containers"):
            for container in self.spec.get(group, []):
                yield f"{self.where}, container {container.get('name', '?')}", container


def label_of(item: KubernetesObject) -> str:
    """Return kind and name, as messages call an object."""
    return f"{item.get('kind', '?')} {item.get('metadata', {}).get('name', '?')}"


def named(objects: list[KubernetesObject], kind: str) -> dict[str, KubernetesObject]:
    """Return the objects of a kind by name."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def pod_templates(objects: list[KubernetesObject]) -> list[PodTemplate]:
    """Return every pod template, those of training runtimes among them."""
    return [template for item in objects for template in _templates(item)]


def _templates(item: KubernetesObject) -> Iterator[PodTemplate]:
    where = label_of(item)
    if item["kind"] in WORKLOADS:
        claims = frozenset(claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", []))
        yield _template(where, item["spec"]["template"], claims)
    elif item["kind"] in ("TrainingRuntime", "ClusterTrainingRuntime"):
        for job in item["spec"]["template"]["spec"]["replicatedJobs"]:
            yield _template(f"{where}, job {job['name']}", job["template"]["spec"]["template"], frozenset())


def _template(where: str, template: dict[str, Any], claims: frozenset[str]) -> PodTemplate:
    return PodTemplate(where, template.get("metadata", {}).get("labels", {}), template["spec"], claims)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector picks these labels; an empty selector picks everything."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exact and all(_matches(rule, labels) for rule in selector.get("matchExpressions", []))


def _matches(rule: dict[str, Any], labels: dict[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values", [])
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"{rule['operator']!r} is no operator of a label selector")
