"""Everything an object names must exist: in the same overlay, as a Secret template, or in the installation below."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from manifests.validation.objects import (
    KubernetesObject,
    PodTemplate,
    label_of,
    named,
    pod_templates,
    selects,
)
from manifests.validation.render import MANIFESTS


@dataclass(frozen=True)
class Surroundings:
    """What exists beside an overlay's own objects."""

    secrets: dict[str, frozenset[str]] = field(default_factory=dict)
    """Name -> keys, from the templates that an operator fills in."""
    provided: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of what the installation has already."""


def surroundings(overlay: Path) -> Surroundings:
    """Read the Secret templates and the overlay's `provided.yaml`."""
    templates = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(MANIFESTS.glob("secrets/*.yaml"))]
    provided = yaml.safe_load((overlay / "provided.yaml").read_text(encoding="utf-8"))
    return Surroundings(
        {item["metadata"]["name"]: frozenset(item["stringData"]) for item in templates},
        frozenset((entry["kind"], entry["name"]) for entry in provided),
    )


def reference_complaints(objects: list[KubernetesObject], around: Surroundings) -> list[str]:
    """Return every reference that leads nowhere, one line each."""
    rules = (_pods, _autoscalers, _bindings, _queues, _jobs, _selectors, _ports)
    return [line for rule in rules for line in rule(objects, around)]


def _pods(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    config_maps = {
        name: frozenset(item.get("data", {})) | frozenset(item.get("binaryData", {}))
        for name, item in named(objects, "ConfigMap").items()
    }
    for template in pod_templates(objects):
        for where, container in template.containers():
            yield from _environment(where, container, config_maps, around.secrets)
            yield from _mounts(where, container, template)
        yield from _volumes(template, objects, config_maps, around)
        account = template.spec.get("serviceAccountName")
        if account and not _exists("ServiceAccount", account, objects, around):
            yield f"{template.where}: ServiceAccount {account} does not exist"
        priority = template.spec.get("priorityClassName")
        if priority and not _exists("PriorityClass", priority, objects, around):
            yield f"{template.where}: PriorityClass {priority} does not exist"


def _environment(
    where: str,
    container: dict[str, Any],
    config_maps: dict[str, frozenset[str]],
    secrets: dict[str, frozenset[str]],
) -> Iterator[str]:
    sources = [(source, None) for source in container.get("envFrom", [])]
    sources += [(entry.get("valueFrom", {}), "key") for entry in container.get("env", [])]
    kinds = {
        "configMapRef": ("ConfigMap", config_maps),
        "configMapKeyRef": ("ConfigMap", config_maps),
        "secretRef": ("Secret", secrets),
        "secretKeyRef": ("Secret", secrets),
    }
    for source, key_field in sources:
        for reference, (kind, known) in kinds.items():
            given = source.get(reference)
            if given is None or given.get("optional"):
                continue
            yield from _key_complaints(where, kind, given["name"], given.get(key_field) if key_field else None, known)


def _key_complaints(
    where: str, kind: str, name: str, key: str | None, known: dict[str, frozenset[str]]
) -> Iterator[str]:
    if name not in known:
        yield f"{where}: {kind} {name} does not exist"
    elif key is not None and key not in known[name]:
        yield f"{where}: {kind} {name} has no key {key}"


def _mounts(where: str, container: dict[str, Any], template: PodTemplate) -> Iterator[str]:
    volumes = {volume["name"] for volume in template.spec.get("volumes", [])} | template.claim_templates
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"{where}: volume {mount['name']} does not exist"


def _volumes(
    template: PodTemplate,
    objects: list[KubernetesObject],
    config_maps: dict[str, frozenset[str]],
    around: Surroundings,
) -> Iterator[str]:
    for volume in template.spec.get("volumes", []):
        where = f"{template.where}, volume {volume['name']}"
        if config := volume.get("configMap"):
            for key in [entry["key"] for entry in config.get("items", [])] or [None]:
                yield from _key_complaints(where, "ConfigMap", config["name"], key, config_maps)
        if secret := volume.get("secret"):
            yield from _key_complaints(where, "Secret", secret["secretName"], None, around.secrets)
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and not _exists("PersistentVolumeClaim", claim, objects, around):
            yield f"{where}: PersistentVolumeClaim {claim} does not exist"


def _exists(kind: str, name: str, objects: list[KubernetesObject], around: Surroundings) -> bool:
    return name in named(objects, kind) or (kind, name) in around.provided


def _autoscalers(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    for item in named(objects, "HorizontalPodAutoscaler").values():
        target = item["spec"]["scaleTargetRef"]
        found = named(objects, target["kind"]).get(target["name"])
        if found is None:
            yield f"{label_of(item)}: {target['kind']} {target['name']} does not exist"
        elif "replicas" in found["spec"]:
            yield f"{label_of(item)}: {label_of(found)} sets replicas too, and each apply would undo the scaling"


def _bindings(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    for item in named(objects, "RoleBinding").values():
        role = item["roleRef"]
        if not _exists(role["kind"], role["name"], objects, around):
            yield f"{label_of(item)}: {role['kind']} {role['name']} does not exist"
        for subject in item.get("subjects", []):
            if subject["kind"] != "ServiceAccount":
                continue
            if not _exists("ServiceAccount", subject["name"], objects, around):
                yield f"{label_of(item)}: ServiceAccount {subject['name']} does not exist"
            if subject.get("namespace") != item["metadata"].get("namespace"):
                yield f"{label_of(item)}: its subject is in another namespace, {subject.get('namespace')}"


def _queues(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    for item in named(objects, "LocalQueue").values():
        cluster_queue = item["spec"]["clusterQueue"]
        if not _exists("ClusterQueue", cluster_queue, objects, around):
            yield f"{label_of(item)}: ClusterQueue {cluster_queue} does not exist"
    for item in named(objects, "ClusterQueue").values():
        for group in item["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                if not _exists("ResourceFlavor", flavor["name"], objects, around):
                    yield f"{label_of(item)}: ResourceFlavor {flavor['name']} does not exist"
                if (listed := [entry["name"] for entry in flavor["resources"]]) != group["coveredResources"]:
                    yield f"{label_of(item)}: flavor {flavor['name']} lists {listed}, not the covered resources"
    covered = {
        name
        for item in named(objects, "ClusterQueue").values()
        for group in item["spec"]["resourceGroups"]
        for name in group["coveredResources"]
    }
    for template in pod_templates([item for item in objects if item["kind"] == "TrainingRuntime"]):
        for where, container in template.containers():
            requested = container.get("resources", {}).get("requests", {}).keys()
            if covered and (uncovered := sorted(requested - covered)):
                yield f"{where}: no ClusterQueue covers {', '.join(uncovered)}, so jobs would never be admitted"


def _jobs(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    for item in named(objects, "TrainJob").values():
        runtime = item["spec"]["runtimeRef"]
        if not _exists(runtime.get("kind", "ClusterTrainingRuntime"), runtime["name"], objects, around):
            yield f"{label_of(item)}: {runtime.get('kind')} {runtime['name']} does not exist"
        queue = item["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        if queue and not _exists("LocalQueue", queue, objects, around):
            yield f"{label_of(item)}: LocalQueue {queue} does not exist"


def _selectors(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    """Services, budgets, policies and monitors that pick nothing."""
    pods = [template.labels for template in pod_templates(objects)]
    services = [item["metadata"].get("labels", {}) for item in objects if item["kind"] == "Service"]
    for item in objects:
        spec = item.get("spec", {})
        match item["kind"]:
            case "Service":
                selector, candidates = {"matchLabels": spec.get("selector", {})}, pods
            case "PodDisruptionBudget":
                selector, candidates = spec["selector"], pods
            case "NetworkPolicy":
                selector, candidates = spec["podSelector"], pods
            case "ServiceMonitor":
                selector, candidates = spec["selector"], services
            case _:
                continue
        if not any(selects(selector, labels) for labels in candidates):
            yield f"{label_of(item)}: its selector picks nothing"


def _ports(objects: list[KubernetesObject], around: Surroundings) -> Iterator[str]:
    """Ports that a Service, a monitor or a probe names and nobody opens."""
    templates = pod_templates(objects)
    for item in named(objects, "Service").values():
        picked = [t for t in templates if selects({"matchLabels": item["spec"].get("selector", {})}, t.labels)]
        opened = {port["name"] for t in picked for _, c in t.containers() for port in c.get("ports", [])}
        for port in item["spec"]["ports"]:
            if port["targetPort"] not in opened:
                yield f"{label_of(item)}: no container opens port {port['targetPort']}"
    for item in named(objects, "ServiceMonitor").values():
        picked = [
            s for s in named(objects, "Service").values() if selects(item["spec"]["selector"], s["metadata"]["labels"])
        ]
        offered = {port["name"] for service in picked for port in service["spec"]["ports"]}
        for endpoint in item["spec"]["endpoints"]:
            if endpoint["port"] not in offered:
                yield f"{label_of(item)}: no Service offers port {endpoint['port']}"
    for template in templates:
        for where, container in template.containers():
            opened = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in opened:
                    yield f"{where}: {probe} asks port {port}, which it does not open"
