"""Definitions of the custom resources that the overlays use, for an API server on which nobody installed them.

Made of what the project has: the models of Kubeflow Trainer's API and the schemas of `manifests/validation`, with the
two rules of the Trainer that a schema alone cannot express. The real definitions, where somebody has them, are better.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
SCHEMAS = Path(__file__).parents[2] / "manifests" / "validation" / "schemas"
OF_THE_CLUSTER = {"ClusterQueue", "ResourceFlavor"}
KEPT = {"type", "format", "required", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength", "minItems"}
"""What a structural schema may say beside its parts; descriptions are left out: they are most of the bytes."""
RULES = {
    ("spec", "trainer", "numProcPerNode"): {"rule": "self >= 1", "message": "numProcPerNode must be at least 1"},
    ("spec", "runtimeRef"): {"rule": "self == oldSelf", "message": "runtimeRef is immutable"},
}
ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}
INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True}


def definitions() -> list[dict[str, Any]]:
    """Return a CustomResourceDefinition for every kind that is not Kubernetes' own."""
    return [*_of_the_trainer(), *_of_the_schemas(), _definition("kueue.x-k8s.io", "v1beta2", "Workload", ANYTHING)]


def _of_the_trainer() -> Iterator[dict[str, Any]]:
    from kubeflow_trainer_api import models

    for kind in ("TrainJob", "TrainingRuntime"):
        schema = getattr(models, f"TrainerV1alpha1{kind}").model_json_schema(by_alias=True)
        structural_schema = structural(schema, schema["$defs"])
        if kind == "TrainJob":
            for path, rule in RULES.items():
                _at(structural_schema, path)["x-kubernetes-validations"] = [rule]
        yield _definition("trainer.kubeflow.org", "v1alpha1", kind, structural_schema)


def _of_the_schemas() -> Iterator[dict[str, Any]]:
    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text())
        group, version = schema["properties"]["apiVersion"]["const"].split("/")
        yield _definition(group, version, schema["properties"]["kind"]["const"], structural(schema, {}))


def structural(schema: Schema, known: dict[str, Schema]) -> Schema:
    """Return a schema as the API server takes it: references resolved, every part typed, nothing about null."""
    if "$ref" in schema:
        return structural(known[schema["$ref"].rpartition("/")[2]], known)
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if options:
        return structural(options[0], known) if len(options) == 1 else ANYTHING
    if "one_of_schemas" in schema.get("properties", {}) or isinstance(schema.get("type"), list):
        # So the models, and our own schemas, write a number that may come as text.
        return INT_OR_STRING
    made = {key: value for key, value in schema.items() if key in KEPT}
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if "enum" in made:
        made.setdefault("type", "string")
    if "properties" in schema:
        made["type"] = "object"
        made["properties"] = {name: structural(part, known) for name, part in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = structural(schema["additionalProperties"], known)
    elif made.get("type") == "object":
        made |= ANYTHING
    if "items" in schema:
        made["items"] = structural(schema["items"], known)
    return made if "type" in made else ANYTHING


def _definition(group: str, version: str, kind: str, schema: Schema) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    served = dict(schema.get("properties", {}))
    served |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    served.setdefault("status", {"type": "object"} | ANYTHING)
    whole = {"type": "object", "properties": served} | ({} if "properties" in schema else ANYTHING)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # Whoever wants a name below k8s.io says that it was agreed on; this one never leaves a test.
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests only"},
        },
        "spec": {
            "group": group,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Cluster" if kind in OF_THE_CLUSTER else "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": whole},
                }
            ],
        },
    }


def _at(schema: Schema, path: tuple[str, ...]) -> Schema:
    for name in path:
        schema = schema["properties"][name]
    return schema
