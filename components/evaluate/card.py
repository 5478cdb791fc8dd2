"""The result as a short Markdown card and as headline numbers, for the pipeline's UI."""

from collections.abc import Mapping

from components.contracts.manifest import Manifest
from components.evaluate.assessment import Evaluation
from components.evaluate.evaluation_page import headline
from components.evaluate.methods import METHODS
from components.report.tables import fraction


def card(evaluation: Evaluation, inputs: Mapping[str, Manifest]) -> str:
    """Return the result in words, the table, and the digests it rests on."""
    names = evaluation.set_names
    lines = [
        "### Evaluation",
        "",
        " ".join(headline(evaluation)),
        "",
        f"| method | {' | '.join(_text(name) for name in names)} | average |",
        f"|---|{'---:|' * (len(names) + 1)}",
    ]
    for method, average in evaluation.averages.items():
        scores = evaluation.scores[method]
        cells = [fraction(scores[name].em) if name in scores else "" for name in names]
        lines.append(f"| {METHODS[method].label} | {' | '.join(cells)} | {fraction(average.em)} |")
    lines += ["", *(f"- {name}: `{manifest.digest[:16]}`" for name, manifest in inputs.items())]
    return "\n".join(lines) + "\n"


def headline_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return at most ten numbers: Search-R1's average, its EM on the first seven sets, its searches, the gain."""
    average = evaluation.averages["search_r1"]
    numbers = {"em/avg": average.em, "rollout/num_searches/mean": average.searches}
    if "base" in evaluation.differences:
        numbers["em/gain_over_base"] = evaluation.differences["base"].mean
    numbers |= {f"em/{name}": evaluation.scores["search_r1"][name].em for name in evaluation.set_names[:7]}
    return numbers


def _text(name: str) -> str:
    """A custom set's name as one Markdown cell."""
    return "".join(c if c.isalnum() or c in "._-" else " " for c in name)
