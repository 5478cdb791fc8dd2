"""The report of an evaluation: the result in words, the table, the curves, episodes, and where it all came from."""

from components.contracts.statistics import PairedDifference
from components.evaluate.asked import asked_in_words
from components.evaluate.assessment import Evaluation
from components.evaluate.contrasts import Contrast, Pair
from components.evaluate.cost import answering_table, making_table
from components.evaluate.methods import METHODS, methods_lead
from components.evaluate.scores import Score
from components.report.curves import curves
from components.report.episodes import VIEWER_SCRIPT, episode_viewer
from components.report.intervals import difference_table
from components.report.lineage import lineage_list
from components.report.markup import Markup, element
from components.report.page import Figure, Section, definitions, folded, key_figures, page, paragraph
from components.report.tables import Column, Estimate, MethodRow, em_table, fraction, plain_table, set_label, signed

_PAPER_ORDER = ("direct", "cot", "ircot", "react", "search_o1", "rag", "sft", "rl_no_search", "rejection_sampling")
"""Baselines come first in the paper's table; then, which it lacks, our untrained base in the loop; Search-R1 last."""


def evaluation_page(evaluation: Evaluation) -> str:
    """Return the whole page as HTML."""
    sections = [
        Section("Result", _result(evaluation)),
        Section(
            "Exact match",
            (_table(evaluation), *_sampling(evaluation)),
            "Every method answered the same questions with greedy decoding; those that search asked the same index.",
        ),
        *_comparison(evaluation),
        Section(
            "How they answered",
            (_behaviour(evaluation),),
            "Averages over the sets, each weighing the same.",
        ),
        Section(
            "Training",
            (curves(evaluation.training_metrics, chosen_step=evaluation.chosen_step),),
            "One point per step of reinforcement learning; the dashed line is the step whose weights were kept, "
            "chosen on the dev split.",
        ),
        Section(
            "Episodes",
            (episode_viewer(evaluation.episodes),),
            "Of the evaluation: questions of every set, right and wrong in turn, drawn by a fixed seed and not by "
            "hand, answered greedily by the trained model. Of training: sampled attempts at training questions, as the "
            "loss saw them. Colours show token by token who wrote it, how sure the model was, and what training made "
            "of it.",
        ),
        Section(
            "Cost",
            (answering_table(evaluation.costs), making_table(evaluation.lineage)),
            "What answering took with each method, and what was made before it could.",
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
    return page("Search-R1 evaluation", sections, counted, VIEWER_SCRIPT)


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
    questions = [
        folded(f"Questions won and lost against {_label(method)}", _contrast_table(method, contrast))
        for method, contrast in evaluation.contrasts.items()
        if contrast.won or contrast.lost
    ]
    return [Section("Search-R1 against each other method", (difference_table(rows, "Search-R1"), *questions), lead)]


def _contrast_table(method: str, contrast: Contrast) -> Markup:
    columns = ["Question", "set", "gold", "Search-R1", _label(method)]
    rows = [_pair_row("won", pair) for pair in contrast.won] + [_pair_row("lost", pair) for pair in contrast.lost]
    note = (
        f"Search-R1 alone was right {contrast.num_won:,} times, {_label(method)} alone {contrast.num_lost:,} times, "
        f"both {contrast.num_both_right:,} times, neither {contrast.num_both_wrong:,} times. Those shown were drawn by "
        "a fixed seed."
    )
    return plain_table([Column(title, is_number=False) for title in columns], rows, note)


def _pair_row(verdict: str, pair: Pair) -> tuple[Markup | str, ...]:
    ours, theirs = pair
    badge = element("span", verdict, class_="badge right" if verdict == "won" else "badge wrong")
    return (
        element("span", badge, " ", element("span", ours.question, class_="data")),
        set_label(ours.set_name),
        _data(" | ".join(ours.golden_answers)),
        _data(ours.prediction if ours.finished else "(none)"),
        _data(theirs.prediction if theirs.finished else "(none)"),
    )


def _data(text: str) -> Markup:
    return element("span", text or "(empty)", class_="data")


def _table(evaluation: Evaluation) -> Markup:
    rows = [
        MethodRow(
            _label(method),
            METHODS[method].note,
            {name: _estimate(score) for name, score in evaluation.scores[method].items()},
            _estimate(average),
            strong=method == "search_r1",
        )
        for method, average in sorted(evaluation.averages.items(), key=lambda item: _place(item[0]))
    ]
    whole = {name: asked.num_whole for name, asked in evaluation.asked.items() if asked.is_sample}
    return em_table(rows, evaluation.set_names, evaluation.in_domain, whole)


def _place(method: str) -> int:
    if method == "search_r1":
        return len(_PAPER_ORDER) + 1
    return _PAPER_ORDER.index(method) if method in _PAPER_ORDER else len(_PAPER_ORDER)


def _sampling(evaluation: Evaluation) -> list[Markup]:
    bootstrap = evaluation.bootstrap
    how = (
        f"Intervals: percentile bootstrap over questions, {bootstrap.resamples:,} resamples, seed {bootstrap.seed}; "
        "for the average, questions are drawn anew within each set."
    )
    alike = [score.n for row in evaluation.scores.values() for score in row.values() if score.ci95[0] == score.ci95[1]]
    if alike:
        how += (
            " Where all questions of a cell came out alike, resampling shows no spread and the interval is too "
            f"narrow: of {min(alike):,} questions alike, the true share may lie up to "
            f"{min(1.0, 3 / min(alike)):.2f} away (rule of three)."
        )
    return [paragraph(said) for said in (asked_in_words(evaluation.asked), how) if said]


def _behaviour(evaluation: Evaluation) -> Markup:
    columns = ["searches", "valid actions", "answered", "F1", "model tokens", "lost searches"]
    rows = [
        (
            _label(method),
            f"{score.searches:.2f}",
            fraction(score.valid_action_frac),
            fraction(score.finish_frac),
            fraction(score.f1),
            f"{score.model_tokens:,.1f}",
            f"{score.search_failures:,}",
        )
        for method, score in evaluation.averages.items()
    ]
    note = (
        "Searches, tokens: per question. Valid actions: share of turns that searched or answered. Answered: share of "
        "questions whose episode ended with an answer. F1: word overlap with the best gold answer. Lost searches: "
        "episodes that the search engine failed, in all."
    )
    return plain_table([Column("Method", is_number=False), *map(Column, columns)], rows, note)


def _verdict(gain: PairedDifference) -> str:
    size = f"{abs(gain.mean) * 100:.1f} points (95 % interval {_points(gain.lo)} to {_points(gain.hi)})"
    if gain.lo > 0:
        return f"training gained {size}"
    return f"training lost {size}" if gain.hi < 0 else f"the difference of {size} may be chance"


def _label(method: str) -> str:
    return METHODS[method].label


def _estimate(score: Score) -> Estimate:
    return Estimate(score.em, *score.ci95, score.n)


def _interval(score: Score) -> str:
    return f"95 % interval {fraction(score.ci95[0])}\N{EN DASH}{fraction(score.ci95[1])}"


def _points(value: float) -> str:
    return f"{value * 100:.1f}".replace("-", "\N{MINUS SIGN}")


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"
