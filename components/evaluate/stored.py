"""A published evaluation, read back with all that its report shows; no model and no index is opened."""

import json
from pathlib import Path

from components.agent.config import LoopConfig
from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.evaluate.assessment import Bootstrap, Evaluation, assess
from components.evaluate.origins import origins
from components.evaluate.outputs import read_answers
from components.storage import fetch, lineage, open_storage, read_manifest


def evaluation_manifest(what: str, runs_dir: Path) -> Manifest:
    """Return the manifest at the path or URI `what` (ends in `.json`), or that of the evaluation of run `what`.

    Raises:
        MissingError: there is no such run or manifest.
        ManifestError: it is malformed.
    """
    if what.endswith(".json"):
        return read_manifest(what)
    summary = json.loads(open_storage(f"file://{runs_dir.resolve()}").get_bytes(f"{what}/summary.json"))
    return read_manifest(summary["lineage"]["evaluation"]["uri"])


def stored_evaluation(manifest: Manifest) -> Evaluation:
    """Return what `manifest` points to, with the training record and lineage of its inputs.

    Raises:
        ManifestError: it is no evaluation, an older version made it, or a file or input is missing or changed.
        StorageError: the storage refuses.
    """
    if manifest.kind != "evaluation":
        raise ManifestError(f"{manifest.uri} is of the kind {manifest.kind!r}", "evaluation")
    facts, storage_root = manifest.metadata, manifest.uri.partition("/store/")[0]
    if not {"loop", "bootstrap"} <= facts.keys():
        raise ManifestError(f"{manifest.uri} does not say how it was scored", remedy="evaluate again")
    inputs = {
        entry.name: entry.manifest for entry in lineage(manifest, storage_root) if entry.depth == 1 and entry.manifest
    }
    if missing := sorted({"checkpoint", "questions"} - inputs.keys()):
        raise ManifestError(f"{' and '.join(missing)} of {manifest.uri} can no longer be found in {storage_root}")
    return assess(
        read_answers(fetch(manifest)),
        Bootstrap(**facts["bootstrap"]),
        LoopConfig.parse(facts["loop"], where="loop"),
        inputs["checkpoint"],
        inputs["questions"],
        origins(inputs, storage_root),
    )
