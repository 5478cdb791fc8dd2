"""The page of a training: its curves, a few of its episodes, what it was made from; made from its checkpoint alone."""

import json
from typing import Any

from components.contracts.manifest import Manifest
from components.report.curves import curves
from components.report.episodes import VIEWER_SCRIPT, EpisodeView, episode_viewer
from components.report.lineage import duration, lineage_list
from components.report.markup import Markup
from components.report.page import Figure, Section, key_figures, page, paragraph
from components.storage import fetch
from components.tracking import METRICS_NAME, read_metrics
from components.train.rollout_samples import FOLDER


def training_page(checkpoint: Manifest, inputs: dict[str, Manifest]) -> str:
    """Return the page of the training behind `checkpoint` as HTML; the weights stay closed.

    Raises:
        ManifestError: a file of the checkpoint is missing or changed.
        StorageError: the storage refuses.
    """
    folder = fetch(checkpoint, wanted=lambda path: path == METRICS_NAME or path.startswith(f"{FOLDER}/"))
    episodes = []
    for path in sorted(entry.path for entry in checkpoint.files if entry.path.startswith(f"{FOLDER}/")):
        found = json.loads((folder / path).read_text(encoding="utf-8"))
        episodes += [EpisodeView.model_validate(view) for view in found]
    facts = checkpoint.metadata
    sections = [
        Section("Result", _result(facts)),
        Section(
            "Curves",
            (curves(read_metrics(folder / METRICS_NAME), chosen_step=facts["best_step"]),),
            "One point per step; the dashed line is the step whose weights were kept, chosen on the dev questions.",
        ),
    ]
    if episodes:
        lead = "Sampled attempts at training questions, as the loss saw them: who wrote what, how sure the model was."
        sections.append(Section("Episodes", (episode_viewer(episodes),), lead))
    chain = (*inputs.items(), ("checkpoint", checkpoint))
    sections.append(Section("Lineage", (lineage_list(chain),), "What the training was made from, and what it made."))
    return page(f"Training: {facts['algorithm']}", sections, f"{facts['steps']} steps", VIEWER_SCRIPT)


def _result(facts: dict[str, Any]) -> tuple[Markup, ...]:
    first_em = facts["em_curve"][0][1] if facts["em_curve"] else 0.0
    is_supervised = facts["algorithm"] == "sft"
    figures = [
        Figure(f"{facts['dev_em']:.3f}", "dev exact match", f"step {facts['best_step']}", strong=True),
        Figure(f"{first_em:.3f}", "before training", "the same questions"),
        Figure(duration(facts["rl_s"]), "time in the loop", f"{facts['steps']} steps"),
        Figure(f"{facts['tokens']:,}", "trained tokens", "gold answers" if is_supervised else "written by the model"),
    ]
    said = "The dev questions choose the checkpoint; no test question was looked at."
    return key_figures(figures), paragraph(said)
