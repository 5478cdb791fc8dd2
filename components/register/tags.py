"""The tags of a model version: where it comes from, and what the gate needs to compare it with later ones."""

import json
import os

from components.agent.config import LoopConfig
from components.contracts.errors import ManifestError, MissingError
from components.contracts.manifest import Manifest
from components.register.answers import read_answers
from components.register.gate import Candidate
from components.register.registry import CHECKPOINT_TAG
from components.storage import open_storage
from components.tracking.registered import CORPUS_VERSION_TAG

_EVALUATION_TAG, _INDEX_TAG, _LOOP_TAG = "evaluation.uri", "index.digest", "loop.config"


def version_tags(
    checkpoint: Manifest,
    evaluation: Manifest,
    index: Manifest,
    loop: LoopConfig,
    mean_em: float,
    corpus_version: str = "",
) -> dict[str, str]:
    """Return the tags a new version gets; what is unknown is left out."""
    tags = {
        CHECKPOINT_TAG: checkpoint.digest,
        _EVALUATION_TAG: evaluation.uri,
        _INDEX_TAG: index.digest,
        _LOOP_TAG: loop.to_json(),
        "evaluation.digest": evaluation.digest,
        "index.kind": str(index.metadata.get("index_kind", "")),
        "index.uri": index.uri,
        "corpus.digest": index.inputs.get("corpus", ""),
        CORPUS_VERSION_TAG: corpus_version,
        "questions.digest": evaluation.inputs.get("questions", ""),
        "base_model.digest": checkpoint.inputs.get("base_model", ""),
        "config.sha256": checkpoint.produced_by.config_sha256,
        "git.commit": checkpoint.produced_by.git_commit,
        "algorithm": str(checkpoint.metadata.get("algorithm", "")),
        "em.avg": f"{mean_em:.4f}",
        "gate.report_uri": f"{evaluation.uri}/report.html",
        "run.id": os.environ.get("SEARCHR1_RUN_ID", ""),
        "kfp.run_id": os.environ.get("KFP_RUN_ID", ""),
    }
    return {name: value for name, value in tags.items() if value}


def candidate_from_tags(version: str, tags: dict[str, str]) -> Candidate:
    """Return a registered version as the gate sees it, its answers read from the evaluation its tags name.

    Raises:
        ManifestError: a tag is missing, or the evaluation is damaged.
        ConfigError: its search loop has settings that no longer exist.
        MissingError: the evaluation is no longer stored.
        StorageError: the storage refuses.
    """
    missing = [name for name in (_EVALUATION_TAG, _INDEX_TAG, _LOOP_TAG) if name not in tags]
    if missing:
        raise ManifestError(f"version {version} has no tag {', '.join(missing)}")
    uri = tags[_EVALUATION_TAG]
    try:
        evaluation = Manifest.from_json(open_storage(uri).get_bytes("manifest.json").decode(), uri)
    except MissingError as error:
        raise MissingError(f"the evaluation of version {version} at {uri} is no longer stored") from error
    # A setting that is newer than the version has its default there.
    loop = LoopConfig.parse(json.loads(tags[_LOOP_TAG]), where=_LOOP_TAG)
    return Candidate(version, read_answers(evaluation), tags[_INDEX_TAG], loop.model_dump(mode="json"))
