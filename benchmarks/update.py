"""`make bench-update`: tokens a second of our packed update against the training step of TRL's GRPOTrainer.

Both sides make one optimizer update from the same episodes of very different lengths (log-normal: many short, few
long), with the same weights, advantages, clipped loss over the same tokens, AdamW and gradient clipping, and as many
cells in a forward and backward pass. Counted are the real tokens of the episodes; padding counts nothing. That both
do the same work is checked: their gradient norms must agree. Further cases show how our cost grows with the
number and with the length of the episodes, and what becomes of it when several ranks share one batch.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, Case, alone, compared, table, write_record
from benchmarks.rollout import TRL_PYTHON
from benchmarks.sides import Side, in_turns
from benchmarks.skewed_batch import Batch

GOALS = {"trl": 2.0, "exponent_at_most": 1.15, "rank_exponent_at_most": 0.15}
SKEWED_NAME = "log-normal"
"""The goal is one for skewed lengths; equal ones show what is left of the ratio without padding."""
MAX_NORM_DIFFERENCE = 2e-3
"""Relative; the two divide by the spread of a group plus another small number."""
SKEWED = Batch("bundled", 64, median_tokens=64, sigma=1.0, max_tokens=480, micro_batch_rows=8)
CASES: dict[str, tuple[Batch, int]] = {
    "bundled model, 64 episodes, log-normal lengths": (SKEWED, 5),
    "bundled model, 64 episodes, equal lengths": (replace(SKEWED, sigma=0.0, median_tokens=128), 3),
    "random 20 M, 32 episodes, log-normal lengths": (replace(SKEWED, model="rambling-20m", num_episodes=32), 3),
}
"""Batch and repeats of each comparison."""
EQUAL = replace(SKEWED, sigma=0.0, num_episodes=64, median_tokens=128, row_tokens=510)
AXES: dict[str, tuple[list[int], Callable[[int], Batch]]] = {
    "episodes": ([32, 64, 128, 256], lambda count: replace(EQUAL, num_episodes=count)),
    "tokens of a response": ([60, 120, 240, 480], lambda length: replace(EQUAL, median_tokens=length)),
}
"""What grows in the scaling cases, its values, and the batch of each value."""
RANKS = (1, 2, 4)
SHARED = replace(SKEWED, num_episodes=512)
"""The batch that the ranks share: episodes of very different lengths have to be dealt out evenly. It is as large as
that of a training step; of a few dozen episodes four ranks get so little that they mostly fill rows."""
RANKS_NAME = "exponent of the work over ranks"
SCALING_REPEATS = 3
NOTES = (
    "Tokens of the episodes, prompts and observations included, per second of wall clock of one optimizer update; one "
    "process a side, measured in turns. TRL's time is that between the Trainer's step callbacks: no generation, "
    "rewards, padding or logging. An exponent is the slope of log seconds over log tokens; 1 is linear. Ranks are gloo "
    "processes that share one batch: their work is the CPU time of all of them, so that more ranks than cores can be "
    "compared too, and its exponent over ranks is 0 when sharing costs nothing."
)


def compare(name: str, batch: Batch, repeats: int, trl_python: Path, threads: int) -> Case:
    """Return our comparison with TRL.

    Raises:
        RuntimeError: the gradient norms say that the two sides did not do the same work.
    """
    settings = {"batch": asdict(batch)}
    with (
        Side(sys.executable, "benchmarks.update_side", settings, threads=threads) as ours,
        Side(trl_python, "benchmarks.trl_update", settings, threads=threads) as peer,
    ):
        measured = in_turns({"ours": ours, "trl": peer}, repeats)
    norms = {side: every[0]["grad_norm"] for side, every in measured.items()}
    print(f"  gradient norms: {norms}", flush=True)
    if not math.isclose(norms["ours"], norms["trl"], rel_tol=MAX_NORM_DIFFERENCE):
        raise RuntimeError(f"{name}: the sides do different work, their gradient norms are {norms}")
    rates = {side: list(map(_rate, every)) for side, every in measured.items()}
    return compared(name, rates["ours"], rates["trl"], "trl", "tokens/s")


def scale(axis: str, values: Sequence[int], batch_of: Callable[[int], Batch], threads: int) -> list[Case]:
    """Return tokens per second at every value of an axis, and the exponent of the growth of the time."""
    cases, points = [], []
    for value in values:
        settings = {"batch": asdict(batch_of(value))}
        with Side(sys.executable, "benchmarks.update_side", settings, threads=threads) as ours:
            measured = in_turns({"ours": ours}, SCALING_REPEATS)["ours"]
        cases.append(alone(f"{value} {axis}", list(map(_rate, measured)), "tokens/s"))
        points.append((math.log(measured[0]["tokens"]), math.log(min(found["seconds"] for found in measured))))
        print(f"  {cases[-1].case}: {cases[-1].ours:,.0f} tokens/s", flush=True)
    return [*cases, alone(f"exponent over {axis}", [_slope(points)], "log s / log tokens")]


def share(batch: Batch, worlds: Sequence[int], threads: int, cores: int = os.cpu_count() or 1) -> list[Case]:
    """Return what one batch costs ranks of several numbers, and the exponent of the growth of their common work.

    Raises:
        RuntimeError: the gradient norms say that the worlds did not do the same work.
    """
    cases, points, norms = [], [], {}
    for world in worlds:
        settings = {"batch": asdict(batch), "ranks": world}
        with Side(sys.executable, "benchmarks.update_ranks", settings, threads=threads) as ours:
            measured = in_turns({"ours": ours}, SCALING_REPEATS)["ours"]
        name = f"{world} ranks" if world > 1 else "1 rank"
        if world * threads <= cores:
            cases.append(alone(f"{name}, each", [_rate(found) / world for found in measured], "tokens/s"))
        work = [found["tokens"] / found["cpu_seconds"] for found in measured]
        cases.append(alone(f"{name}, work", work, "tokens/CPU s"))
        points.append((math.log(world), math.log(min(found["cpu_seconds"] for found in measured))))
        norms[name] = measured[0]["grad_norm"]
        print(f"  {name}: {_rate(measured[0]):,.0f} tokens/s, {work[0]:,.0f} tokens a CPU second", flush=True)
    if not all(math.isclose(norm, norms["1 rank"], rel_tol=MAX_NORM_DIFFERENCE) for norm in norms.values()):
        raise RuntimeError(f"the worlds do different work, their gradient norms are {norms}")
    return [*cases, alone(RANKS_NAME, [_slope(points)], "log CPU s / log ranks")]


def _rate(found: dict[str, Any]) -> float:
    return found["tokens"] / found["seconds"]


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of the points."""
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of every side")
    parser.add_argument("--trl-python", type=Path, default=TRL_PYTHON, help="interpreter that has TRL")
    parser.add_argument("--output", type=Path, default=RESULTS / "update.json")
    options = parser.parse_args(arguments)
    cases: list[Case] = []
    for name, (batch, repeats) in CASES.items():
        if options.only in name:
            print(name, flush=True)
            cases.append(compare(name, batch, repeats, options.trl_python, options.threads))
    for axis, (values, batch_of) in AXES.items():
        if options.only in axis:
            print(f"growth with the {axis}", flush=True)
            cases += scale(axis, values, batch_of, options.threads)
    if options.only in "ranks":
        print(f"{', '.join(map(str, RANKS))} ranks on one batch", flush=True)
        cases += share(SHARED, RANKS, options.threads)
    print(table(cases))
    met = {case.case: case.ratio >= GOALS["trl"] for case in cases if SKEWED_NAME in case.case}
    met |= {c.case: c.ours <= GOALS["exponent_at_most"] for c in cases if c.case.startswith("exponent over")}
    met |= {c.case: c.ours <= GOALS["rank_exponent_at_most"] for c in cases if c.case == RANKS_NAME}
    notes = f"{NOTES} Threads: {options.threads}."
    write_record(options.output, command="make bench-update", cases=cases, goal=GOALS, met=met, notes=notes)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
