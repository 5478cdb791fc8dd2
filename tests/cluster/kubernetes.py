"""A cluster as the tests see it: kubectl, and what they may leave behind there."""

import copy
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KubernetesObject = dict[str, Any]
FIELD_MANAGER = "searchr1-test"
KINDS_OF_THE_CLUSTER = {"PriorityClass", "ClusterQueue", "ResourceFlavor", "Namespace", "CustomResourceDefinition"}


@dataclass(frozen=True)
class Kubernetes:
    """One API server, spoken to through kubectl."""

    kubectl_path: Path
    kubeconfig: Path
    is_alone: bool
    """Whether it is a server of this test's own, with nothing behind it."""

    def kubectl(self, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl, `given` (objects) on its input, and return what it said, whether or not it succeeded."""
        text = given if isinstance(given, str) or given is None else json.dumps(given)
        return subprocess.run(
            [str(self.kubectl_path), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
        )

    def done(self, *arguments: str, given: object = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl, which has to succeed."""
        result = self.kubectl(*arguments, given=given)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}: {result.stderr[-3000:]}"
        return result

    def apply(self, objects: list[KubernetesObject], *options: str) -> subprocess.CompletedProcess[str]:
        """Apply objects on the server's side, unknown fields refused."""
        arguments = ("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--validate=strict", *options)
        return self.kubectl(*arguments, "-f", "-", given=listed(objects))

    def get(self, kind: str, name: str, namespace: str) -> KubernetesObject:
        """Return one object."""
        return json.loads(self.done("get", kind, name, "-n", namespace, "-o", "json").stdout)

    def minor_version(self) -> int:
        """Return the number after the dot of the server's version."""
        version = json.loads(self.done("get", "--raw", "/version").stdout)
        return int(version["minor"].rstrip("+"))

    def served_kinds(self) -> set[tuple[str, str]]:
        """Return (apiVersion, kind) of everything the server knows."""
        found = set()
        for version in json.loads(self.done("get", "--raw", "/apis").stdout)["groups"]:
            for served in version["versions"]:
                resources = json.loads(self.done("get", "--raw", f"/apis/{served['groupVersion']}").stdout)
                found |= {(served["groupVersion"], resource["kind"]) for resource in resources["resources"]}
        core = json.loads(self.done("get", "--raw", "/api/v1").stdout)["resources"]
        return found | {("v1", resource["kind"]) for resource in core}


def listed(objects: list[KubernetesObject]) -> KubernetesObject:
    """Return the objects as one document."""
    return {"apiVersion": "v1", "kind": "List", "items": objects}


def moved(objects: list[KubernetesObject], namespace: str) -> list[KubernetesObject]:
    """Return the objects with a namespace in place of their own, also where a binding names its subjects."""
    found = copy.deepcopy(objects)
    for item in found:
        if item["kind"] not in KINDS_OF_THE_CLUSTER:
            item["metadata"]["namespace"] = namespace
        for subject in item.get("subjects", []):
            if "namespace" in subject:
                subject["namespace"] = namespace
    return found


def account(objects: list[KubernetesObject]) -> str:
    """Return the account that the overlay's binding lets launch, as `--as` names it."""
    binding = next(item for item in objects if item["kind"] == "RoleBinding")
    (subject,) = binding["subjects"]
    return f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
