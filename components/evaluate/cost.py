"""What a result cost: the time and tokens of every method's answers, and of everything made before them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.contracts.manifest import Manifest
from components.evaluate.methods import METHODS
from components.evaluate.predictions import Prediction
from components.report.lineage import duration
from components.report.markup import Markup
from components.report.tables import Column, plain_table

_UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class AnswerCost:
    """Answering all questions with one method."""

    num_questions: int
    wall_s: float
    num_model_tokens: int
    num_searches: int


def answer_cost(rows: Sequence[Prediction], wall_s: float) -> AnswerCost:
    """Return the sums over `rows`, which took `wall_s`."""
    return AnswerCost(
        len(rows), wall_s, sum(row.num_model_tokens for row in rows), sum(row.num_searches for row in rows)
    )


def making_table(lineage: Sequence[tuple[str, Manifest]]) -> Markup:
    """Return one row per link of the chain: wall time of its step, and what training spent where it says so."""
    rows = []
    for name, manifest in lineage:
        facts = manifest.metadata
        loop_s, num_gpus = facts.get("rl_s"), facts.get("num_gpus")
        rows.append(
            (
                name,
                duration(manifest.produced_by.seconds),
                _UNKNOWN if loop_s is None else duration(loop_s),
                _count(facts.get("steps")),
                _count(facts.get("tokens")),
                _UNKNOWN if loop_s is None or num_gpus is None else f"{loop_s * num_gpus / 3600:,.2f}",
            )
        )
    columns = ["whole step", "training loop", "steps", "tokens trained on", "GPU-hours"]
    note = (
        "Wall time when the step really ran, which may have been in an earlier run. Tokens trained on: those the model "
        "wrote itself, for SFT those of the gold answers. GPU-hours: of the training loop, 0 on a CPU. "
        "A dash: does not apply, or was not recorded."
    )
    return plain_table([Column("Made", is_number=False), *map(Column, columns)], rows, note)


def answering_table(costs: Mapping[str, AnswerCost]) -> Markup:
    """Return one row per method: wall time, questions and model tokens a second, and sums."""
    rows = [
        (
            METHODS[method].label,
            duration(cost.wall_s),
            f"{cost.num_questions / max(cost.wall_s, 1e-9):,.1f}",
            f"{cost.num_model_tokens:,}",
            f"{cost.num_model_tokens / max(cost.wall_s, 1e-9):,.0f}",
            f"{cost.num_searches:,}",
        )
        for method, cost in costs.items()
    ]
    columns = ["wall time", "questions/s", "model tokens", "model tokens/s", "searches"]
    note = "All questions of all sets together. Model tokens: written by the model; prompts and passages do not count."
    return plain_table([Column("Answered by", is_number=False), *map(Column, columns)], rows, note)


def _count(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"
