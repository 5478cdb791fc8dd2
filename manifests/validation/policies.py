"""What a careful operator would refuse: floating images, loose pods, open networks, broad or missing rights."""

import re
from collections.abc import Iterator
from typing import Any

from manifests.validation.objects import KubernetesObject, PodTemplate, label_of, named, pod_templates, selects
from manifests.validation.render import PLACEHOLDER_REGISTRY

_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_FIXED_TAG = re.compile(r"v?\d+\.\d+[\w.+-]*|git-[0-9a-f]{7,40}")
"""A version down to its minor number at least, or a commit; `latest`, `17` and `stable` move."""
_RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Volume types that the pod security standard `restricted` allows."""
_HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")
_SET_BY_TRAINER = "PET_"
RANKS = "node"
"""Replicated job of a training runtime that holds the ranks; the Trainer knows it by this name."""
LAUNCHER_ROLE = "searchr1-train-launcher"
LAUNCHER_RIGHTS = {
    ("trainer.kubeflow.org", "trainjobs"): {"create", "get", "list", "watch", "patch", "delete"},
    ("trainer.kubeflow.org", "trainingruntimes"): {"get", "list"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "pods/log"): {"get", "list", "watch"},
    ("", "events"): {"get", "list", "watch"},
    ("kueue.x-k8s.io", "workloads"): {"get", "list"},
}
"""What launching, following and stopping a training job takes, no more: (API group, resource) -> verbs."""


def policy_complaints(objects: list[KubernetesObject], deployable: bool = False) -> list[str]:
    """Return what breaks a rule of this project, one line each; `deployable` refuses placeholder images too."""
    lines = [line for template in pod_templates(objects) for line in _pod(template)]
    lines += _image_complaints(objects, deployable)
    lines += [*_rights(objects), *_networks(objects), *_secrets(objects), *_availability(objects)]
    return [*lines, *_gangs(objects), *_restarts(objects)]


def _image_complaints(objects: list[KubernetesObject], deployable: bool) -> Iterator[str]:
    for template in pod_templates(objects):
        for where, container in template.containers():
            if complaint := image_complaint(container.get("image", "")):
                yield f"{where}: {complaint}"
            elif deployable and container["image"].startswith(PLACEHOLDER_REGISTRY):
                yield f"{where}: {container['image']} is a placeholder; name the real image"
    for item in named(objects, "TrainJob").values():
        image = item["spec"].get("trainer", {}).get("image")
        if image and (complaint := image_complaint(image)):
            yield f"{label_of(item)}: {complaint}"


def image_complaint(reference: str) -> str:
    """Return why an image reference may mean something else tomorrow, or an empty string."""
    if _DIGEST.fullmatch(reference):
        return ""
    repository, _, tag = reference.rpartition(":")
    if not repository or "/" in tag:
        return f"image {reference!r} has no tag"
    return "" if _FIXED_TAG.fullmatch(tag) else f"image tag {tag!r} floats"


def _pod(template: PodTemplate) -> Iterator[str]:
    spec, where = template.spec, template.where
    for name in _HOST_FIELDS:
        if spec.get(name):
            yield f"{where}: {name} is not restricted"
    if spec.get("automountServiceAccountToken") is not False:
        yield f"{where}: carries a token of its service account"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= _RESTRICTED_VOLUMES:
            yield f"{where}: volume {volume['name']} is of a kind that is not restricted: {', '.join(kinds)}"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"{where}: volume {volume['name']} has no sizeLimit"
    for place, container in template.containers():
        yield from _container(place, container, spec.get("securityContext", {}))
        yield from _set_by_trainer(place, container)


def _container(where: str, container: dict[str, Any], pod_context: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    effective = {**pod_context, **context}
    if effective.get("runAsNonRoot") is not True:
        yield f"{where}: runAsNonRoot is not true"
    if effective.get("runAsUser") == 0:
        yield f"{where}: runs as root"
    if effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{where}: has no seccomp profile"
    if context.get("privileged"):
        yield f"{where}: is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allows privilege escalation"
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: may write to its own image"
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield f"{where}: keeps capabilities"
    resources = container.get("resources", {})
    for name, amounts in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
        for amount in amounts:
            if amount not in resources.get(name, {}):
                yield f"{where}: {name} no {amount}"


def _set_by_trainer(where: str, container: dict[str, Any]) -> Iterator[str]:
    for entry in container.get("env", []):
        if entry["name"].startswith(_SET_BY_TRAINER):
            yield f"{where}: {entry['name']} is the Trainer's to set; its webhook refuses it here"


def _rights(objects: list[KubernetesObject]) -> Iterator[str]:
    """Every right that launching takes, and none beyond it anywhere."""
    for item in objects:
        if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{label_of(item)}: rights over the whole cluster"
    for item in named(objects, "Role").values():
        for rule in item["rules"]:
            if "*" in [*rule.get("apiGroups", []), *rule.get("resources", []), *rule.get("verbs", [])]:
                yield f"{label_of(item)}: a rule with *"
    role = named(objects, "Role").get(LAUNCHER_ROLE)
    if role is None:
        yield f"Role {LAUNCHER_ROLE} does not exist"
        return
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
    for group, resource in sorted(granted.keys() | LAUNCHER_RIGHTS.keys()):
        needed, given = LAUNCHER_RIGHTS.get((group, resource), set()), granted.get((group, resource), set())
        name = f"{resource}.{group}" if group else resource
        if missing := needed - given:
            yield f"{label_of(role)}: lacks {', '.join(sorted(missing))} on {name}"
        if excess := given - needed:
            yield f"{label_of(role)}: does not need {', '.join(sorted(excess))} on {name}"
    bound = [item for item in named(objects, "RoleBinding").values() if item["roleRef"]["name"] == LAUNCHER_ROLE]
    if not any(item.get("subjects") for item in bound):
        yield f"{label_of(role)}: nobody is bound to it"


def _networks(objects: list[KubernetesObject]) -> Iterator[str]:
    """Every pod is closed by default, and nobody outside of the project is closed with it."""
    policies = list(named(objects, "NetworkPolicy").values())
    closed = [item["spec"]["podSelector"] for item in policies if _denies_all(item["spec"])]
    for template in pod_templates(objects):
        if not any(selects(selector, template.labels) for selector in closed):
            yield f"{template.where}: no network policy closes it by default"
    for item in policies:
        if selects(item["spec"]["podSelector"], {}):
            yield f"{label_of(item)}: picks pods that are not ours"
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in item["spec"].get(direction, []):
                if not rule.get(peers):
                    yield f"{label_of(item)}: an {direction} rule for everybody"


def _denies_all(spec: dict[str, Any]) -> bool:
    return (
        set(spec.get("policyTypes", [])) == {"Ingress", "Egress"} and not spec.get("ingress") and not spec.get("egress")
    )


def _secrets(objects: list[KubernetesObject]) -> Iterator[str]:
    for item in named(objects, "Secret").values():
        yield f"{label_of(item)}: secrets are no part of an overlay; they are filled in from the templates"


def _gangs(objects: list[KubernetesObject]) -> Iterator[str]:
    for item in named(objects, "TrainingRuntime").values():
        jobs = item["spec"]["template"]["spec"]["replicatedJobs"]
        waiting = [job["name"] for job in jobs if job.get("dependsOn")]
        if waiting and item["spec"].get("podGroupPolicy"):
            yield (
                f"{label_of(item)}: {', '.join(waiting)} is made when another job is ready, and a gang is scheduled "
                "when all its pods exist: neither would ever start"
            )
        for position, job in enumerate(jobs):
            earlier = [other["name"] for other in jobs[:position]]
            for needed in job.get("dependsOn", []):
                if needed["name"] not in earlier:
                    names = f"job {job['name']} depends on {needed['name']}"
                    yield f"{label_of(item)}: {names}, which does not stand before it"


def _restarts(objects: list[KubernetesObject]) -> Iterator[str]:
    """A lost rank starts the whole job anew: a pod that came back alone would find nobody in its rendezvous."""
    for item in named(objects, "TrainingRuntime").values():
        spec = item["spec"]["template"]["spec"]
        if not spec.get("failurePolicy", {}).get("maxRestarts"):
            yield f"{label_of(item)}: one lost rank ends the job; failurePolicy.maxRestarts starts it anew"
        if "ttlSecondsAfterFinished" in spec:
            yield f"{label_of(item)}: ttlSecondsAfterFinished deletes what the Trainer then makes anew for ever"
        ranks = next(job for job in spec["replicatedJobs"] if job["name"] == RANKS)["template"]["spec"]
        if ranks.get("backoffLimit") != 0 or ranks["template"]["spec"].get("restartPolicy") != "Never":
            yield f"{label_of(item)}, job {RANKS}: ranks come back one by one; backoffLimit 0 and restartPolicy Never"


def _availability(objects: list[KubernetesObject]) -> Iterator[str]:
    for template in pod_templates([item for item in objects if item["kind"] in ("Deployment", "StatefulSet")]):
        for container in template.spec["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{template.where}, container {container['name']}: no {probe}"
    for item in named(objects, "HorizontalPodAutoscaler").values():
        budgets = named(objects, "PodDisruptionBudget").values()
        target = named(objects, "Deployment").get(item["spec"]["scaleTargetRef"]["name"], {})
        labels = target.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        if target and not any(selects(budget["spec"]["selector"], labels) for budget in budgets):
            yield f"{label_of(item)}: a service of several replicas without a disruption budget"
