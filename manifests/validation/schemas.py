"""Fields, types and required parts: what the API server's schemas would refuse."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from manifests.validation.objects import KubernetesObject, label_of, pod_templates

KUBERNETES_VERSIONS = ("1.33", "1.37")
"""The oldest and the newest Kubernetes that the manifests are for."""
_SCHEMAS = Path(__file__).parent / "schemas"


def schema_complaints(objects: list[KubernetesObject]) -> list[str]:
    """Return what the schemas refuse, one line each.

    A kind without a schema is a complaint too: nothing passes unchecked.
    """
    checked = [(label_of(item), item) for item in objects] + _runtime_pods(objects)
    return [f"{label}: {line}" for label, item in checked for line in _check(json.dumps(item, sort_keys=True))]


@cache
def _check(text: str) -> tuple[str, ...]:
    """Check one object, given as JSON: schemas are large, and overlays hold the same objects."""
    item = json.loads(text)
    group = item["apiVersion"].rpartition("/")[0]
    if group == "trainer.kubeflow.org":
        return tuple(trainer_complaints(item))
    written = _SCHEMAS / f"{item['kind'].lower()}.{item['apiVersion'].replace('/', '-')}.json"
    if written.exists():
        validator = jsonschema.Draft202012Validator(json.loads(written.read_text(encoding="utf-8")))
        return tuple(_line(error) for error in validator.iter_errors(item))
    return tuple(dict.fromkeys(line for version in KUBERNETES_VERSIONS for line in _core_complaints(item, version)))


def _core_complaints(item: KubernetesObject, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [_line(error)]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{item['apiVersion']} {item['kind']} has no schema here, nor in Kubernetes {version}"]
    return []


def _line(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(str(part) for part in error.path) or 'the object'}: {error.message[:300]}"


@cache
def _trainer_models() -> dict[str, Callable[[dict[str, Any]], Any]]:
    # Imported here: it takes seconds, and only training kinds need it.
    from kubeflow_trainer_api import models

    return {
        "TrainJob": models.TrainerV1alpha1TrainJob.from_dict,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime.from_dict,
    }


def trainer_complaints(item: KubernetesObject) -> list[str]:
    """Return what the API of Kubeflow Trainer 2.3 refuses.

    Its models drop what they do not know: whatever is missing after a round trip was unknown.
    """
    read = _trainer_models().get(item["kind"])
    if read is None or item["apiVersion"] != "trainer.kubeflow.org/v1alpha1":
        return [f"{item['apiVersion']} {item['kind']} is unknown to Kubeflow Trainer 2.3"]
    try:
        kept = read(item).to_dict()
    except ValueError as error:
        return [" ".join(str(error).split())[:300]]
    return [f"{path}: unknown field or wrong type" for path in _missing(item, kept, "")]


def _missing(given: Any, kept: Any, path: str) -> list[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            line
            for key, value in given.items()
            for line in (_missing(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}".lstrip(".")])
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [line for n, (left, right) in pairs for line in _missing(left, right, f"{path}[{n}]")]
    return [] if given == kept else [path.lstrip(".")]


def _runtime_pods(objects: list[KubernetesObject]) -> list[tuple[str, KubernetesObject]]:
    """Pods inside training runtimes, for the stricter schema of core pods."""
    runtimes = [item for item in objects if item["kind"] == "TrainingRuntime"]
    head = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "node"}}
    return [(template.where, head | {"template": {"spec": template.spec}}) for template in pod_templates(runtimes)]
