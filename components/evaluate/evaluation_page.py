"""The report of an evaluation: the result in words, the table, the curves, episodes, and where it all came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.contracts.manifest import Manifest
from components.contracts.statistics import PairedDifference
from components.evaluate.methods import METHODS, methods_lead
from components.evaluate.scores import Score
from components.report.curves import curves
from components.report.episodes import EpisodeView, episode_list
from components.report.intervals import difference_table
from components.report.lineage import duration, lineage_list
from components.report.markup import Markup
from components.report.page import Figure, Section, definitions, key_figures, page, paragraph
from components.report.tables import Column, Estimate, MethodRow, em_table, fraction, plain_table, signed


@dataclass(frozen=True)
class Evaluation:
    """Everything the page shows; mappings are keyed by method, in the order of the table's rows."""

    scores: Mapping[str, Mapping[str, Score]]
    averages: Mapping[str, Score]
    differences: Mapping[str, PairedDifference]
    """Search-R1 minus each other method."""
    wall_s: Mapping[str, float]
    in_domain: frozenset[str]
    max_searches: int
    episodes: Sequence[EpisodeView]
    training_metrics: Sequence[Mapping[str, float]]
    chosen_step: int | None
    lineage: Sequence[tuple[str, Manifest]]

    @property
    def set_names(self) -> list[str]:
        """The sets, in the order of the table's columns."""
        return list(self.scores["search_r1"])


def evaluation_page(evaluation: Evaluation) -> str:
    """Return the whole page as HTML."""
    sections = [
        Section("Result", _result(evaluation)),
        Section(
            "Exact match",
            (_table(evaluation),),
            "Every method answered the same questions with greedy decoding; those that search asked the same index.",
        ),
        *_comparison(evaluation),
        Section(
            "How they answered",
            (_behaviour(evaluation),),
            "Averages over the sets, each weighing the same. The time of a question includes "
            "its wait for a free slot beside the others.",
        ),
        Section(
            "Training",
            (curves(evaluation.training_metrics, chosen_step=evaluation.chosen_step),),
            "One point per step of reinforcement learning; the dashed line is the step whose weights were kept, "
            "chosen on the dev split.",
        ),
        Section(
            "Episodes",
            (episode_list(evaluation.episodes),),
            "Questions of every set, right and wrong in turn, drawn by a fixed seed and not by hand.",
        ),
        Section(
            "What each method is",
            (definitions([(_label(m), METHODS[m].meaning) for m in evaluation.averages]),),
            methods_lead(evaluation.averages),
        ),
        Section(
            "Lineage",
            (lineage_list(evaluation.lineage),),
            "What this evaluation was made from, sources first. Equal digests mean equal bytes.",
        ),
    ]
    num_questions = evaluation.averages["search_r1"].n
    counted = f"{num_questions:,} questions over {len(evaluation.set_names)} sets, greedy decoding"
    return page("Search-R1 evaluation", sections, counted)


def headline(evaluation: Evaluation) -> list[str]:
    """Return the result in two or three plain sentences."""
    ours = evaluation.averages["search_r1"]
    sets = f"average of {len(evaluation.set_names)} sets" if len(evaluation.set_names) > 1 else evaluation.set_names[0]
    sentences = [f"The trained model answers {_percent(ours.em)} of the questions exactly ({sets})."]
    if "base" in evaluation.differences:
        theirs, gain = evaluation.averages["base"], evaluation.differences["base"]
        sentences.append(f"The untrained model in the same loop answers {_percent(theirs.em)}; {_verdict(gain)}.")
    others = {method: score for method, score in evaluation.averages.items() if method not in ("search_r1", "base")}
    if others:
        best = max(others, key=lambda method: others[method].em)
        gap = evaluation.differences[best]
        stance = "ahead of" if gap.lo > 0 else "behind" if gap.hi < 0 else "not clearly different from"
        sentences.append(
            f"It is {stance} the strongest other method, {_label(best)}, which reaches {_percent(others[best].em)} "
            f"(difference {signed(gap.mean)}, 95 % interval {signed(gap.lo)} to {signed(gap.hi)})."
        )
    failures = sum(score.search_failures for score in evaluation.averages.values())
    if failures:
        sentences.append(f"{failures:,} episodes lost a search to a failure of the engine and count as wrong.")
    return sentences


def _result(evaluation: Evaluation) -> tuple[Markup, ...]:
    ours = evaluation.averages["search_r1"]
    figures = [Figure(fraction(ours.em), "Search-R1, average EM", _interval(ours), strong=True)]
    if "base" in evaluation.differences:
        theirs, gain = evaluation.averages["base"], evaluation.differences["base"]
        figures.append(Figure(fraction(theirs.em), "untrained model, same loop", _interval(theirs)))
        figures.append(Figure(signed(gain.mean), "gained by training", f"{signed(gain.lo)} to {signed(gain.hi)}"))
    figures.append(Figure(f"{ours.searches:.2f}", "searches per question", f"at most {evaluation.max_searches}"))
    return key_figures(figures), paragraph(" ".join(headline(evaluation)))


def _comparison(evaluation: Evaluation) -> list[Section]:
    if not evaluation.differences:
        return []
    rows = [(_label(method), difference) for method, difference in evaluation.differences.items()]
    lead = (
        "Difference in average exact match over the same questions, with a 95 % bootstrap interval. An interval "
        "that leaves zero out is hardly an accident of the questions drawn."
    )
    return [Section("Search-R1 against each other method", (difference_table(rows, "Search-R1"),), lead)]


def _table(evaluation: Evaluation) -> Markup:
    rows = [
        MethodRow(
            _label(method),
            METHODS[method].note,
            {name: _estimate(score) for name, score in evaluation.scores[method].items()},
            _estimate(average),
            strong=method == "search_r1",
        )
        for method, average in evaluation.averages.items()
    ]
    return em_table(rows, evaluation.set_names, evaluation.in_domain)


def _behaviour(evaluation: Evaluation) -> Markup:
    columns = ["searches", "valid actions", "answered", "F1", "model tokens", "median time", "whole run", "questions/s"]
    rows = []
    for method, score in evaluation.averages.items():
        wall_s = evaluation.wall_s[method]
        rows.append(
            (
                _label(method),
                f"{score.searches:.2f}",
                fraction(score.valid_action_frac),
                fraction(score.finish_frac),
                fraction(score.f1),
                f"{score.model_tokens:,.1f}",
                f"{score.latency_s * 1000:,.0f} ms",
                duration(wall_s),
                f"{score.n / max(wall_s, 1e-9):,.0f}",
            )
        )
    note = (
        "Searches, tokens: per question. Valid actions: share of turns that searched or answered. Answered: share of "
        "questions whose episode ended with an answer. F1: word overlap with the best gold answer."
    )
    return plain_table([Column("Method", is_number=False), *map(Column, columns)], rows, note)


def _verdict(gain: PairedDifference) -> str:
    size = f"{abs(gain.mean) * 100:.1f} points (95 % interval {gain.lo * 100:.1f} to {gain.hi * 100:.1f})"
    if gain.lo > 0:
        return f"training gained {size}"
    return f"training lost {size}" if gain.hi < 0 else f"the difference of {size} may be chance"


def _label(method: str) -> str:
    return METHODS[method].label


def _estimate(score: Score) -> Estimate:
    return Estimate(score.em, *score.ci95, score.n)


def _interval(score: Score) -> str:
    return f"95 % interval {fraction(score.ci95[0])}\N{EN DASH}{fraction(score.ci95[1])}"


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"
