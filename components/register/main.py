"""Register a checkpoint in MLflow and decide by the gate whether it becomes champion.

Safe to run again at any point: a checkpoint has one version, and a decision, once made, stands.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.contracts.errors import ManifestError, TrackingError, UserError
from components.contracts.manifest import Manifest
from components.contracts.step import Step, StepContext, StepResult
from components.register.answers import read_answers
from components.register.card import decision_card, read_scores, version_card
from components.register.config import RegisterConfig
from components.register.gate import Candidate, Verdict, judge, judge_first
from components.register.model_files import has_model_files, loop_of, write_model_files
from components.register.registry import CHAMPION, DECISION_TAG, Registry, promote, rollback
from components.register.tags import candidate_from_tags, version_tags
from components.storage import check_stored, publish
from components.storage.failures import TaskFailures
from components.tracking.registered import CORPUS_VERSION_TAG

__all__ = ["promote", "rollback", "run", "step"]
_TRIES = 5
"""How often the champion may change under the gate's hands."""


def run(
    config: RegisterConfig, context: StepContext, checkpoint: Manifest, evaluation: Manifest, index: Manifest
) -> StepResult:
    """Register `checkpoint`, judge it by `evaluation`, and return what was decided.

    Raises:
        UserError: no tracking server is configured, or it takes no models from this storage.
        ManifestError: the inputs do not belong together or are damaged.
        TrackingError: the tracking server cannot be reached.
        StorageError: the storage refuses.
    """
    registry = Registry.open(config.model_name)
    _check_inputs(checkpoint, evaluation, index)
    scores = read_scores(evaluation)
    challenger = Candidate("", read_answers(evaluation), index.digest, loop_of(checkpoint).model_dump(mode="json"))
    tags = version_tags(checkpoint, evaluation, index, loop_of(checkpoint), challenger.mean_em, config.corpus_version)
    description = version_card(config.model_name, checkpoint, index, scores)
    version, is_judged = _version_of(registry, checkpoint, index, tags, description)
    if config.corpus_version:
        # A corpus may be replaced by another one of the same content: this checkpoint knows the newest of them.
        registry.set_tags(version, {CORPUS_VERSION_TAG: config.corpus_version})
    if is_judged:
        verdict = Verdict("unchanged", (f"version {version} was made from this checkpoint and judged before",))
    else:
        verdict = _gate(registry, replace(challenger, version=version), config)
    registration = {
        "name": config.model_name,
        "version": version,
        "alias": registry.alias_of(version),
        "decision": verdict.decision,
        "reasons": list(verdict.reasons),
        "champion_version": registry.aliases().get(CHAMPION, ""),
        "mlflow_url": registry.url(version),
    }
    inputs = {"checkpoint": checkpoint, "evaluation": evaluation, "index": index}
    manifest = _published(registration, context, inputs, challenger.mean_em)
    metrics = {
        "em_avg": challenger.mean_em,
        "version": float(version),
        "promoted": float(verdict.decision == "promoted"),
    }
    return StepResult(manifest, card=decision_card(registration, scores), metrics=metrics)


def _check_inputs(checkpoint: Manifest, evaluation: Manifest, index: Manifest) -> None:
    for name, manifest in {"checkpoint": checkpoint, "index": index}.items():
        if manifest.digest not in evaluation.inputs.values():
            raise ManifestError(
                f"The evaluation at {evaluation.uri} was not made with the {name} {manifest.digest[:16]}",
                f"inputs of that evaluation: {evaluation.inputs}",
                "evaluate this checkpoint on this index first",
            )
    check_stored(checkpoint)


def _version_of(
    registry: Registry, checkpoint: Manifest, index: Manifest, tags: dict[str, str], description: str
) -> tuple[str, bool]:
    """Return the checkpoint's version, made if there is none, and whether the gate has judged it before."""
    run_id = checkpoint.mlflow.get("run_id", "")
    found = registry.versions_of(checkpoint.digest)
    if not found or not has_model_files(checkpoint):
        write_model_files(checkpoint, index, run_id)
    if found:
        return str(found[0].version), DECISION_TAG in found[0].tags
    return str(registry.create(checkpoint.uri, tags, description, run_id).version), False


def _gate(registry: Registry, challenger: Candidate, config: RegisterConfig) -> Verdict:
    """Judge a version that was not judged before, move the aliases, then write the decision down.

    The decision tag comes last: a step killed before it judges again, one killed after it never does.
    """
    for _ in range(_TRIES):
        champion = registry.aliases().get(CHAMPION, "")
        verdict = _verdict(registry, challenger, champion, config)
        if verdict.decision != "promoted":
            registry.challenge(challenger.version)
        elif not registry.crown(challenger.version, champion):
            continue
        tags = {
            "gate.reasons": "\n".join(verdict.reasons),
            "gate.champion_version": champion,
            DECISION_TAG: verdict.decision,
        }
        registry.set_tags(challenger.version, tags)
        return verdict
    raise TrackingError(f"the champion of {registry.name} changed {_TRIES} times during the comparison; run it again")


def _verdict(registry: Registry, challenger: Candidate, champion: str, config: RegisterConfig) -> Verdict:
    if not champion:
        return judge_first(challenger, config)
    if champion == challenger.version:
        return Verdict("promoted", ("it is champion already",))
    try:
        return judge(challenger, candidate_from_tags(champion, registry.version(champion).tags), config)
    except UserError as error:
        return Verdict("not_comparable", (f"champion is version {champion}; {error.given}",))


def _published(
    registration: dict[str, Any], context: StepContext, inputs: dict[str, Manifest], mean_em: float
) -> Manifest:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "registration.json").write_text(json.dumps(registration, indent=1), encoding="utf-8")
        return publish(
            Path(folder),
            storage_root=context.storage_root,
            kind="registration",
            produced_by=context.produced_by(),
            inputs=inputs,
            counts={"em_avg": mean_em},
            metadata=registration,
        )


step = Step("register", RegisterConfig, run, TaskFailures.of_environment)
