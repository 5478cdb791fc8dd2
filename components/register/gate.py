"""Who becomes champion: a floor for the first model, a paired bootstrap against the champion afterwards.

Only like is compared with like: the same questions, the same index, the same search loop. Where they
differ the gate refuses and names the difference; a person may then promote by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.contracts.statistics import macro_mean, paired_difference
from components.register.answers import Answers
from components.register.config import RegisterConfig

Decision = Literal["promoted", "rejected", "not_comparable", "unchanged"]
_NAMED_DIFFERENCES = 3


@dataclass(frozen=True)
class Candidate:
    """A model version as the gate sees it."""

    version: str
    answers: Answers
    index_digest: str
    loop: Mapping[str, Any]
    """The search loop's settings it was evaluated with."""

    @property
    def mean_em(self) -> float:
        """Exact match averaged over the sets."""
        return macro_mean([a.em for a in self.answers.values()], [a.set_name for a in self.answers.values()])

    @property
    def em_by_set(self) -> dict[str, float]:
        """Set name -> exact match."""
        names = sorted({answer.set_name for answer in self.answers.values()})
        return {name: macro_mean([a.em for a in self.answers.values() if a.set_name == name]) for name in names}


@dataclass(frozen=True)
class Verdict:
    """A decision and, in sentences, why."""

    decision: Decision
    reasons: tuple[str, ...]


def judge_first(challenger: Candidate, config: RegisterConfig) -> Verdict:
    """Return the verdict on a model that has no champion to beat."""
    comparison = f"mean EM {challenger.mean_em:.3f}, floor {config.min_mean_em:.3f} (register.min_mean_em)"
    if challenger.mean_em < config.min_mean_em:
        return Verdict("rejected", (f"first model below the floor: {comparison}",))
    return Verdict("promoted", (f"first model: {comparison}",))


def judge(challenger: Candidate, champion: Candidate, config: RegisterConfig) -> Verdict:
    """Return the verdict on a challenger against the champion."""
    apart = differences(challenger, champion)
    if apart:
        return Verdict("not_comparable", tuple(f"champion is version {champion.version}; {text}" for text in apart))
    gain = paired_difference(
        [answer.em for answer in challenger.answers.values()],
        [answer.em for answer in champion.answers.values()],
        seed=config.seed,
        resamples=config.bootstrap_resamples,
        groups=[answer.set_name for answer in challenger.answers.values()],
    )
    text = (
        f"mean EM {challenger.mean_em:.3f} against {champion.mean_em:.3f} of version {champion.version}: "
        f"{gain.mean:+.3f} [{gain.lo:+.3f}, {gain.hi:+.3f}], {gain.num_won} questions won, {gain.num_lost} lost"
    )
    failures = _falls(challenger, champion, config.max_set_drop)
    if gain.lo <= config.min_gain:
        failures.insert(0, f"not surely better by more than {config.min_gain:.3f} (register.min_gain): {text}")
    return Verdict("rejected", tuple(failures)) if failures else Verdict("promoted", (text,))


def differences(challenger: Candidate, champion: Candidate) -> list[str]:
    """Return in words everything that makes a comparison unfair; empty when nothing does."""
    apart = _question_differences(challenger.answers, champion.answers)
    if challenger.index_digest != champion.index_digest:
        apart.append(f"another index: {challenger.index_digest[:16]} against {champion.index_digest[:16]}")
    for name in sorted({*challenger.loop, *champion.loop}):
        ours, theirs = challenger.loop.get(name, "unset"), champion.loop.get(name, "unset")
        if ours != theirs:
            apart.append(f"another search loop: {name} = {ours!r} against {theirs!r}")
    return apart


def _question_differences(ours: Answers, theirs: Answers) -> list[str]:
    only_ours, only_theirs = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
    changed = [name for name in ours.keys() & theirs.keys() if not ours[name].asks_the_same(theirs[name])]
    counted = {
        "only the challenger answered": only_ours,
        "only the champion answered": only_theirs,
        "ask something else under the same id": sorted(changed),
    }
    return [f"other questions: {len(names)} {text} ({_named(names)})" for text, names in counted.items() if names]


def _named(names: list[str]) -> str:
    return ", ".join([*names[:_NAMED_DIFFERENCES], *(["..."] if len(names) > _NAMED_DIFFERENCES else [])])


def _falls(challenger: Candidate, champion: Candidate, max_set_drop: float) -> list[str]:
    theirs = champion.em_by_set
    return [
        f"{name} falls from {theirs[name]:.3f} to {em:.3f}, more than {max_set_drop:.3f} (register.max_set_drop)"
        for name, em in challenger.em_by_set.items()
        if theirs[name] - em > max_set_drop + 1e-12
    ]
