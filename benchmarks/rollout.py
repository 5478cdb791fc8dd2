"""`make bench-rollout`: tokens a second of our rollouts against two lock-step loops on the same work.

Ours is `components.agent.rollout` on `torch_engine`; the peers are a plain loop that reads the whole context again
in every turn (`lock_step.py`) and the tool loop of TRL's GRPOTrainer (`trl_rollout.py`, in `.venv-trl`). All have
the same weights, questions, search engine, limits, stops, threads and memory for sequences, and sample at
temperature 1. Counted are the tokens the model sampled that stay in its episodes: no prompts, no observations,
nothing after the end of a turn. The clock runs from the questions to the finished episodes.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.record import RESULTS, Case, compared, table, write_record
from benchmarks.search_world import Workload
from benchmarks.sides import ROOT, Side, in_turns

GOALS = {"lock_step": 5.0, "trl": 3.0}
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
MODULES = {"ours": "benchmarks.rollout_sides", "lock_step": "benchmarks.rollout_sides", "trl": "benchmarks.trl_rollout"}
SMALL_WORLD = Workload("bundled", 384, 256, 0.0, max_searches=3, max_turn_tokens=16, top_k=1)
THINKING = Workload("rambling-0.5m", 256, 128, 0.0, max_searches=4, max_turn_tokens=128, top_k=3)
LARGER = replace(THINKING, model="rambling-20m", num_episodes=96, num_slots=48)
CASES: dict[str, tuple[Workload, int]] = {
    "bundled model, turns of 4 tokens, search 0 ms": (SMALL_WORLD, 5),
    "bundled model, turns of 4 tokens, search 200 ms": (
        replace(SMALL_WORLD, num_episodes=96, num_slots=64, search_latency_s=0.2),
        3,
    ),
    "random 0.5 M, turns of 29 tokens, search 0 ms": (THINKING, 2),
    "random 0.5 M, turns of 29 tokens, search 200 ms": (replace(THINKING, search_latency_s=0.2), 2),
    "random 20 M, turns of 29 tokens, search 0 ms": (LARGER, 2),
    "random 20 M, turns of 29 tokens, search 200 ms": (replace(LARGER, search_latency_s=0.2), 1),
}
"""Workload and repeats of each case."""
NOTES = (
    "Tokens sampled by the model in its episodes, per second of wall clock, one process a side, measured in turns. "
    "lock_step: Hugging Face generate, whole context every turn, one search call a turn. trl: GRPOTrainer of TRL 1.16 "
    "with tools=[search]; its loop calls tools one after another, and ends an episode at a turn without a search. "
    "Ours keeps no cache of search results here. Random models have turns of skewed (geometric) lengths. "
    "Work: positions the model computes, padding included, for a token that counts; its ratio is what the order of the "
    "work alone can give, at equal cost of a position."
)


def measure_case(name: str, workload: Workload, repeats: int, pythons: dict[str, Path], threads: int) -> list[Case]:
    """Return our comparison with every peer that `pythons` has an interpreter for."""
    settings = {"workload": asdict(workload)}
    sides: dict[str, Side] = {}
    try:
        for side, python in pythons.items():
            sides[side] = Side(python, MODULES[side], settings | {"side": side}, threads=threads)
        measured = in_turns(sides, repeats)
    finally:
        for side in sides.values():
            side.close()
    rates = {side: [found["tokens"] / found["seconds"] for found in every] for side, every in measured.items()}
    for side, every in measured.items():
        work = {key: statistics.mean(found[key] for found in every) for key in ("tokens", "searches", "seconds")}
        print(f"  {side}: " + ", ".join(f"{value:,.4g} {key}" for key, value in work.items()), flush=True)
    cases = [
        compared(name, rates["ours"], rate, side, "model tokens/s") for side, rate in rates.items() if side != "ours"
    ]
    per_token = {
        side: [found["positions"] / found["tokens"] for found in every]
        for side, every in measured.items()
        if "positions" in every[0]
    }
    return cases + [
        compared(f"{name}: work", per_token["ours"], rate, side, "positions per token", less_is_better=True)
        for side, rate in per_token.items()
        if side != "ours"
    ]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    parser.add_argument("--repeats", type=int, help="rounds per case instead of the default")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of every side")
    parser.add_argument("--trl-python", type=Path, default=TRL_PYTHON, help="interpreter that has TRL")
    parser.add_argument("--output", type=Path, default=RESULTS / "rollout.json")
    options = parser.parse_args(arguments)
    pythons = {"ours": Path(sys.executable), "lock_step": Path(sys.executable), "trl": options.trl_python}
    cases: list[Case] = []
    for name, (workload, repeats) in CASES.items():
        if options.only in name:
            print(name, flush=True)
            cases += measure_case(name, workload, options.repeats or repeats, pythons, options.threads)
    print(table(cases))
    rates = [case for case in cases if case.unit == "model tokens/s"]
    met = {f"{case.case} / {case.peer_name}": case.ratio >= GOALS[case.peer_name] for case in rates}
    notes = f"{NOTES} Threads: {options.threads}."
    write_record(options.output, command="make bench-rollout", cases=cases, goal=GOALS, met=met, notes=notes)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
