"""From what a person calls a model to its manifest and to everything that is known of it by its lineage."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts.errors import ManifestError, MissingError
from components.contracts.manifest import Manifest
from components.evaluate.config import Method
from components.evaluate.methods import METHODS
from components.storage import lineage, open_storage, read_manifest
from components.tracking import open_client, tracking_boundary, without_credentials

ALLOWED = (
    "a run id, latest, a checkpoint's manifest.json or folder (path or URI), models:/name@alias, models:/name/version, "
    "a Hugging Face folder, hf://owner/name[@revision]"
)
FOREIGN_SCHEMES = ("hf://", "bundled://", "recipe://")
DEFAULT_PRESET = "small-world"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Subject:
    """A model to evaluate."""

    name: str
    """Fit for a file name."""
    storage_root: str
    inputs: Mapping[str, Manifest] = field(default_factory=dict)
    """Inputs of the evaluate step by name, as far as they are known: nothing of a foreign model."""
    preset: str = DEFAULT_PRESET
    """The preset it was made with, where that is known."""


def find_subject(what: str, runs: Path, tracking_uri: str) -> Subject:
    """Return the model that `what` names; one that was not trained here has no inputs.

    Raises:
        MissingError: there is nothing of that name.
        ManifestError: a manifest is of another kind or malformed.
        TrackingError: the model registry cannot be reached.
    """
    here = f"file://{runs.resolve()}"
    if what.startswith(FOREIGN_SCHEMES):
        return Subject(_slug(what.partition("://")[2]), here)
    if what.startswith("models:/"):
        return _of_manifest(read_manifest(f"{_registered_source(what, tracking_uri)}/{MANIFEST}"))
    if what.endswith(".json"):
        return _of_manifest(read_manifest(what))
    if "://" in what or (Path(what) / MANIFEST).is_file():
        return _of_manifest(read_manifest(f"{what.rstrip('/')}/{MANIFEST}"))
    if (Path(what) / "config.json").is_file():
        return Subject(_slug(Path(what).resolve().name), here)
    if (runs / what / "summary.json").is_file():
        return _of_run(runs / what / "summary.json")
    ids = sorted(path.parent.name for path in runs.glob("*/summary.json"))
    raise MissingError(
        f"There is no model {what!r}",
        ALLOWED,
        f"name one of the runs in {runs}: {', '.join(ids[-5:])}" if ids else f"{runs} holds no finished run",
    )


def possible_methods(inputs: Mapping[str, Manifest]) -> tuple[tuple[Method, ...], list[str]]:
    """Return every method for which `inputs` hold the weights, and a sentence for each that is left out."""
    possible = tuple(method for method, entry in METHODS.items() if entry.model in inputs)
    left_out = [
        f"{method} is left out: it needs a {METHODS[method].model.replace('_', ' ')}, and none is known of this model."
        for method in METHODS
        if method not in possible
    ]
    same = inputs["base_model"].digest == inputs["checkpoint"].digest if "base_model" in inputs else False
    if same:
        left_out.insert(0, "base is left out: it would be the same model in the same loop (give --base-model).")
    return tuple(method for method in possible if not (same and method == "base")), left_out


def stored_index(storage_root: str, corpus: Manifest, config_sha256: str, code_sha256: str) -> Manifest | None:
    """Return the index that is stored of this very corpus, made by this configuration and code, or None."""
    for index in _stored(storage_root, "index"):
        made_by = index.produced_by
        is_same = (made_by.config_sha256, made_by.version) == (config_sha256, code_sha256[:16])
        if is_same and index.inputs.get("corpus") == corpus.digest:
            return index
    return None


def _of_run(summary: Path) -> Subject:
    content = json.loads(summary.read_text(encoding="utf-8"))
    links: dict[str, dict[str, str]] = content["lineage"]
    wanted = {entry.model for entry in METHODS.values()} | {"index", "questions"}
    inputs = {name: read_manifest(f"{link['uri']}/{MANIFEST}") for name, link in links.items() if name in wanted}
    root = inputs["checkpoint"].uri.partition("/store/")[0]
    return Subject(_slug(content["run_id"]), root, inputs, content["preset"])


def _of_manifest(manifest: Manifest) -> Subject:
    root = manifest.uri.partition("/store/")[0]
    if manifest.kind == "checkpoint":
        inputs = {"checkpoint": manifest} | _ancestors(manifest, root)
        # The baselines are no ancestors of a checkpoint, but an evaluation of it names them beside it.
        for evaluation in _stored(root, "evaluation"):
            if evaluation.inputs.get("checkpoint") == manifest.digest:
                inputs = _ancestors(evaluation, root) | inputs
    elif manifest.kind == "evaluation":
        inputs = _ancestors(manifest, root)
        manifest = inputs["checkpoint"]
    else:
        raise ManifestError(f"The manifest at {manifest.uri} is of kind {manifest.kind!r}", "checkpoint, evaluation")
    return Subject(f"checkpoint-{manifest.digest[:8]}", root, inputs)


def _ancestors(manifest: Manifest, root: str) -> dict[str, Manifest]:
    chain = lineage(manifest, root)
    return {link.name: link.manifest for link in chain if link.depth == 1 and link.manifest is not None}


def _stored(root: str, kind: str) -> Iterable[Manifest]:
    storage = open_storage(root)
    for info in storage.list(f"store/{kind}"):
        if info.key.endswith(f"/{MANIFEST}"):
            yield Manifest.from_json(storage.get_bytes(info.key).decode(), storage.uri(info.key))


def _registered_source(name: str, tracking_uri: str) -> str:
    from mlflow.exceptions import MlflowException

    model, at, alias = name.removeprefix("models:/").partition("@")
    model, _, version = (model, "", "") if at else model.partition("/")
    if not model or not (alias or version):
        raise MissingError(f"{name!r} names no version", "models:/name@alias, models:/name/version")
    client = open_client(tracking_uri)
    with tracking_boundary(tracking_uri):
        try:
            if alias:
                return client.get_model_version_by_alias(model, alias).source
            return client.get_model_version(model, version).source
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    raise MissingError(f"There is no {name!r} in {without_credentials(tracking_uri)}", remedy="look at it in MLflow")


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text).strip("-.") or "model"
