"""`make bench-ranks`: the exact match that the small world ends with on two ranks, against one, over several seeds.

Every run is the whole pipeline, with the trained baselines cut to two steps because nothing here asks about them. Two
ranks take the steps of one rank up to rounding (`tests/integration/test_ranks_learn_alike.py`), but sampling makes a
difference in the last bit into another token a few steps later. What is left to compare are the ends of many runs:
their mean difference, and its standard error.

A rank takes one thread, so that runs of one rank go side by side on as many cores as there are.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.record import RESULTS, Case, alone, compared, table, write_record
from benchmarks.sides import ROOT
from components.summary.schema import Summary

CORES = os.cpu_count() or 1
SEEDS = (1, 2, 3, 4, 5, 6)
BASELINE_STEPS = 2
SETTINGS = {
    "train.threads": "1",
    "evaluate.methods": '["search_r1","base"]',
    "train-sft.steps": str(BASELINE_STEPS),
    "train-rl-no-search.steps": str(BASELINE_STEPS),
    "train-rejection-sampling.steps": str(BASELINE_STEPS),
    "train-rejection-sampling.rollout_steps": str(BASELINE_STEPS),
}
NOTES = (
    "Mean exact match over the seven sets and dev exact match of the best checkpoint, one whole run per seed and "
    "number of ranks, one thread a rank. The difference is two ranks' less one rank's, with its standard error over "
    "the seeds; it counts as none when it is smaller than two of them."
)
NUM_ERRORS = 2.0


def run(seed: int, ranks: int, runs: Path) -> Summary:
    """Train and evaluate the small world and return the run's summary; a finished one comes from the cache in `runs`.

    Raises:
        subprocess.CalledProcessError: the run failed; its output was shown.
    """
    folder = runs / f"seed-{seed}-ranks-{ranks}"
    settings = SETTINGS | {"train.parallel.cpu_ranks": str(ranks)}
    command = [str(Path(sys.executable).parent / "searchr1"), "run", "--seed", str(seed), "--runs-dir", str(folder)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    print(f"seed {seed}, {ranks} rank(s)", flush=True)
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return Summary.from_json((folder / "latest" / "summary.json").read_text(encoding="utf-8"))


def run_all(seeds: Sequence[int], ranks: int, runs: Path) -> list[Summary]:
    """Return the summary of a run per seed, in their order; as many runs at once as the cores have room for."""
    with ThreadPoolExecutor(max(1, CORES // ranks)) as pool:
        return list(pool.map(lambda seed: run(seed, ranks, runs), seeds))


def mean_em(summary: Summary) -> float:
    """Return the plain mean of the trained model's exact match over the question sets."""
    return statistics.fmean(row.em for row in summary.em["search_r1"].values())


def difference(name: str, two: Sequence[float], one: Sequence[float]) -> tuple[list[Case], bool]:
    """Return (cases, whether it counts as none) of the mean difference of paired runs; two pairs at least."""
    differences = [a - b for a, b in zip(two, one, strict=True)]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    cases = [
        alone(f"{name}: mean difference", [mean], "exact match"),
        alone(f"{name}: its standard error", [error], "exact match"),
    ]
    return cases, abs(mean) <= NUM_ERRORS * error


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="at least two")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench-ranks", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "ranks.json")
    options = parser.parse_args(arguments)
    if len(set(options.seeds)) < 2:
        parser.error(f"--seeds {options.seeds}: a standard error takes at least two different seeds")
    cases: list[Case] = []
    ends: dict[str, dict[int, list[float]]] = {"mean EM": {1: [], 2: []}, "dev EM": {1: [], 2: []}}
    for first in range(0, len(options.seeds), CORES):
        seeds = options.seeds[first : first + CORES]
        for ranks in (1, 2):
            summaries = run_all(seeds, ranks, options.runs)
            ends["mean EM"][ranks] += map(mean_em, summaries)
            ends["dev EM"][ranks] += [summary.train.dev_em for summary in summaries]
        num_before = len(cases)
        for place, seed in enumerate(seeds, first):
            for name, of_ranks in ends.items():
                two, one = of_ranks[2][place], of_ranks[1][place]
                cases.append(compared(f"seed {seed}: {name}, 2 ranks", [two], [one], "1 rank", "em"))
        print(table(cases[num_before:]), flush=True)
    met: dict[str, bool] = {}
    for name, of_ranks in ends.items():
        found, met[f"{name}: no difference"] = difference(name, of_ranks[2], of_ranks[1])
        cases += found
    print(table(cases))
    command = f"make bench-ranks ARGS='--seeds {' '.join(map(str, options.seeds))}'"
    write_record(
        options.output, command=command, cases=cases, goal={"standard errors": NUM_ERRORS}, met=met, notes=NOTES
    )
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
