"""The Markdown that goes with a version: what it is, what it scored, how to load it."""

import json
from collections.abc import Mapping
from typing import Any

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.register.answers import METHOD
from components.storage import fetch

SCORES_NAME = "scores.json"


def read_scores(evaluation: Manifest) -> dict[str, dict[str, Any]]:
    """Return set name -> scores of the checkpoint.

    Raises:
        ManifestError: the evaluation is damaged or has no scores of the checkpoint.
    """
    try:
        return json.loads((fetch(evaluation) / SCORES_NAME).read_text(encoding="utf-8"))["em"][METHOD]
    except (OSError, ValueError, KeyError) as error:
        raise ManifestError(f"{evaluation.uri}/{SCORES_NAME} has no scores of {METHOD}: {error}") from error


def version_card(name: str, checkpoint: Manifest, index: Manifest, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the description of a model version."""
    facts = checkpoint.metadata
    return "\n".join(
        [
            "A language model that searches, trained by reinforcement learning from the exact match of its answers.",
            "",
            f"* algorithm {_cell(facts.get('algorithm', 'unknown'))}, {facts.get('steps', 'unknown')} steps, "
            f"{facts.get('rl_s', 'unknown')} s, {facts.get('tokens', 'unknown')} tokens",
            f"* base model {checkpoint.inputs.get('base_model', 'unknown')[:16]}, "
            f"questions {checkpoint.inputs.get('questions', 'unknown')[:16]}, "
            f"index {index.digest[:16]} ({_cell(index.metadata.get('index_kind', 'unknown'))})",
            f"* checkpoint {checkpoint.digest}, commit {_cell(checkpoint.produced_by.git_commit)}",
            "",
            score_table(scores),
            "",
            f'`mlflow.pyfunc.load_model("models:/{name}@champion").predict(["who wrote ..."])`',
        ]
    )


def decision_card(registration: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of the step: the decision, why, and the scores it rests on."""
    alias = f" (@{registration['alias']})" if registration["alias"] else ""
    return "\n".join(
        [
            f"# {registration['name']} version {registration['version']}{alias}: {registration['decision']}",
            "",
            *(f"* {_cell(reason)}" for reason in registration["reasons"]),
            "",
            score_table(scores),
            "",
            f"In MLflow: {registration['mlflow_url']}",
            "",
        ]
    )


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row per set."""
    rows = [
        f"| {_cell(name)} | {row['em']:.3f} | {row['ci95'][0]:.3f} to {row['ci95'][1]:.3f} | {row['f1']:.3f} "
        f"| {row['searches']:.2f} | {row['n']} |"
        for name, row in scores.items()
    ]
    return "\n".join(["| set | EM | 95 % | F1 | searches | questions |", "|---|---|---|---|---|---|", *rows])


def _cell(text: object) -> str:
    """Text of others as one line that opens no column, tag or link."""
    plain = " ".join(str(text).split())
    return "".join(f"\\{sign}" if sign in "\\|<>[]*_`" else sign for sign in plain)
