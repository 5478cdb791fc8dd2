"""Decides whether a run that was asked to train on new corpora only has anything to do."""

from dataclasses import dataclass
from typing import Literal

from components.tracking.registered import CHALLENGER, CHAMPION, corpus_versions

Decision = Literal["train", "known"]


@dataclass(frozen=True)
class Novelty:
    """The decision and why, in one sentence."""

    decision: Decision
    reason: str
    model_version: str = ""
    """Version of the registered model that knows the corpus."""


def novelty(only_new_corpus: bool, model_name: str, corpus_version: str) -> Novelty:
    """Return `known` when the corpus need not be trained on again, else `train`.

    The champion knows its corpus. So does the latest challenger: the gate judged it and kept the champion, and a
    schedule would train and refuse it again every night.

    Raises:
        UserError: only new corpora are wanted and no tracking server is configured.
        TrackingError: the tracking server cannot be reached.
    """
    if not only_new_corpus:
        return Novelty("train", "every corpus is trained on (only_new_corpus is no)")
    known = corpus_versions(model_name)
    for alias in (CHAMPION, CHALLENGER):
        version, trained_on = known.get(alias, ("", ""))
        if trained_on and trained_on == corpus_version:
            verdict = "is the champion" if alias == CHAMPION else "was judged and did not become champion"
            return Novelty(
                "known",
                f"{model_name} version {version} was trained on corpus {corpus_version} and {verdict}: "
                "nothing is trained",
                version,
            )
    if not known.get(CHAMPION):
        return Novelty("train", f"{model_name} has no champion yet")
    return Novelty("train", f"corpus {corpus_version} is new to {model_name}")
