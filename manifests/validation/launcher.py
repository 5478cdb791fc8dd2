"""The ConfigMap that tells Kubeflow Pipelines where its own artifacts lie and with which credentials."""

from collections.abc import Iterator
from typing import Any

import yaml

from manifests.validation.objects import KubernetesObject, label_of, named
from manifests.validation.references import Surroundings

NAME = "kfp-launcher"
_PLACE = {"endpoint", "region", "disableSSL", "forcePathStyle", "maxRetries", "credentials"}
_SECRET = {"secretName", "accessKeyKey", "secretKeyKey"}


def launcher_complaints(objects: list[KubernetesObject], around: Surroundings) -> list[str]:
    """Return what Kubeflow's launcher would trip over in every step of every run, one line each.

    It reads the text of the ConfigMap itself: what is misspelt there is ignored, and fails as missing credentials.
    """
    found = named(objects, "ConfigMap").get(NAME)
    return [] if found is None else [f"{label_of(found)}: {line}" for line in _complaints(found["data"], around)]


def _complaints(data: dict[str, str], around: Surroundings) -> Iterator[str]:
    if not data.get("defaultPipelineRoot", "").startswith("s3://"):
        yield "defaultPipelineRoot is no s3:// address, which is the only kind it has credentials for"
    providers = yaml.safe_load(data.get("providers", "")) or {}
    s3 = providers.get("s3", {})
    if unknown := [*(set(providers) - {"s3"}), *(set(s3) - {"default", "overrides"})]:
        yield f"providers has {', '.join(unknown)}, which is unknown"
    if "default" not in s3:
        yield "providers names no default of s3"
    for name, place in [("default", s3.get("default", {})), *(("an override", one) for one in s3.get("overrides", []))]:
        yield from _place(name, place, around)


def _place(name: str, place: dict[str, Any], around: Surroundings) -> Iterator[str]:
    if unknown := set(place) - _PLACE - {"bucketName", "keyPrefix"}:
        yield f"{name} has {', '.join(sorted(unknown))}, which is unknown"
    credentials = place.get("credentials", {})
    if credentials.get("fromEnv"):
        return
    reference = credentials.get("secretRef", {})
    if set(reference) != _SECRET:
        yield f"{name} needs a secretRef with {', '.join(sorted(_SECRET))}, or fromEnv"
        return
    keys = around.secrets.get(reference["secretName"], frozenset())
    if not {reference["accessKeyKey"], reference["secretKeyKey"]} <= keys:
        yield f"{name}: Secret {reference['secretName']} with these keys does not exist"
