"""The end of a run as text: the table, the times, the registry's decision and where to look next."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.log_view import TaskRecord

MEAN = "mean"


def score_table(
    em: Mapping[str, Mapping[str, Mapping[str, Any]]], average: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """Return exact match as an aligned table, methods down, question sets across, their plain mean last.

    With `average` (method -> macro average) the 95 % interval of the mean follows.
    """
    sets = list(dict.fromkeys(name for rows in em.values() for name in rows))
    table = [["exact match", *sets, MEAN, *(["95 % of mean"] if average else [])]]
    for method, rows in em.items():
        scores = [rows[name]["em"] for name in sets if name in rows]
        cells = [_fraction(rows[name]["em"]) if name in rows else "-" for name in sets]
        interval = ["-".join(map(_fraction, average[method]["ci95"]))] if average else []
        table.append([method, *cells, _fraction(sum(scores) / len(scores)) if scores else "-", *interval])
    return aligned(table)


def task_table(records: Sequence[TaskRecord], timings_s: Mapping[str, float]) -> str:
    """Return what each task of this run did and how long its work took when it really ran."""
    table = [["task", "this run", "work"]]
    for record in records:
        work_s = timings_s.get(record.task.replace("-", "_"))
        said = "cached" if record.state == "cached" else f"{record.seconds:.1f} s"
        table.append([record.task, said, "" if work_s is None else f"{work_s:.1f} s"])
    return aligned(table)


def _fraction(value: float) -> str:
    return f"{value:.3f}"


def aligned(table: list[list[str]]) -> str:
    """Return the rows as text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(_line(row, widths) for row in table)


def _line(row: list[str], widths: list[int]) -> str:
    head, *cells = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
    return "  ".join([f"{head.strip():<{widths[0]}}", *cells]).rstrip()
