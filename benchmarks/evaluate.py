"""Evaluates 50,000 small-world questions on one rank and on two: time, memory over time, and whether both agree.

    make bench-evaluate [ARGS='--questions-per-set N --output FILE']

It starts `searchr1 evaluate` on the bundled model as a person would, in folders of its own, and looks at its
processes while they work. Memory of a process is its resident set, Java's included. A third evaluation asks a part of
the questions, which therefore meet other batches: how many answers does that change?
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.record import RESULTS, Case, alone, compared, table, write_record

ROOT = Path(__file__).resolve().parent.parent
WORLD = "world://large?seed=7"
PLAIN = {"template": "plain", "max_searches": 3, "top_k": 1, "max_turn_tokens": 16, "max_observation_tokens": 64}
LOOP = PLAIN | {"max_context_tokens": 384}
SHOWN = re.compile(r"evaluate: ([\d,]+) of ([\d,]+) answers")
DONE = re.compile(r"evaluate: ([\d,]+) answers in ([\d.]+) s")
PART_PER_SET = 300
FLAT_FRAC = 0.10
"""The goal: from a fifth of the questions to the last, no rank's memory grows by more."""


@dataclass
class Watched:
    """One evaluation as seen from outside."""

    ranks: int
    answers: int = 0
    total: int = 0
    answer_s: float = 0.0
    memory: list[tuple[int, int]] = field(default_factory=list)
    """(answers so far, resident bytes of the largest process)."""
    predictions: Path = Path()


def evaluate(folder: Path, ranks: int, questions_per_set: int) -> Watched:
    loop = [f"--set=evaluate.loop.{name}={json.dumps(value)}" for name, value in LOOP.items()]
    command = [sys.executable, "-m", "pipeline.cli", "evaluate", "--model", "bundled://small-world"]
    command += ["--methods", "search_r1", "--questions", WORLD, "--corpus", WORLD, "--ranks", str(ranks), *loop]
    command += ["--set=evaluate.threads=1", "--runs-dir", str(folder), "--output", str(folder / "results")]
    command += ["--max-questions-per-set", str(questions_per_set)]
    seen = Watched(ranks)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=_read, args=(process, seen), daemon=True)
    reader.start()
    while process.poll() is None:
        time.sleep(2)
        resident = max((_resident_bytes(pid) for pid in _tree(process.pid)), default=0)
        seen.memory.append((seen.answers, resident))
    reader.join()
    if process.returncode:
        raise SystemExit(f"searchr1 evaluate ended with {process.returncode}")
    seen.predictions = folder / "results" / "predictions.parquet"
    return seen


def _read(process: subprocess.Popen, seen: Watched) -> None:
    for line in process.stdout:
        print(f"  {line.rstrip()}", flush=True)
        if match := SHOWN.match(line):
            seen.answers, seen.total = (int(text.replace(",", "")) for text in match.groups())
        elif match := DONE.match(line):
            seen.answers = seen.total = int(match[1].replace(",", ""))
            seen.answer_s = float(match[2])


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)):
            children.setdefault(parent, []).append(int(entry.name))
    found, unseen = [], [root]
    while unseen:
        found.append(unseen.pop())
        unseen += children.get(found[-1], [])
    return found


def _parent(entry: Path) -> int:
    try:
        return int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _resident_bytes(pid: int) -> int:
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def cases_of(seen: Watched) -> tuple[list[Case], float]:
    """Return rate and peak of one evaluation, and by how much the memory grew after a fifth of the questions."""
    asking = [(answers, size) for answers, size in seen.memory if answers < seen.total]
    peak = max(size for _, size in seen.memory)
    early = max((size for answers, size in asking if answers <= 0.2 * seen.total), default=peak)
    late = max((size for answers, size in asking if answers > 0.2 * seen.total), default=peak)
    name = f"{seen.answers:,} questions, {seen.ranks} rank{'s' * (seen.ranks > 1)}"
    cases = [
        alone(f"{name}: time", [seen.answer_s], "s"),
        alone(f"{name}: answers", [seen.answers / seen.answer_s], "1/s"),
        alone(f"{name}: peak memory of a process", [peak / 2**20], "MiB"),
        compared(f"{name}: most memory afterwards", [late / 2**20], [early / 2**20], "first fifth", "MiB"),
    ]
    return cases, late / early - 1


def differences(whole: Path, part: Path) -> tuple[int, int]:
    """Return how many questions of `part` were answered otherwise in `whole`, and how many there are."""
    columns = ["question_id", "prediction", "num_searches", "num_model_tokens", "stop_reason"]
    rows = [
        {row.pop("question_id"): row for row in pq.read_table(p, columns=columns).to_pylist()} for p in (whole, part)
    ]
    return sum(row != rows[0][name] for name, row in rows[1].items()), len(rows[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions-per-set", type=int, default=100_000, help="fewer for a quick look (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "evaluate-50k.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evaluate-50k-") as scratch:
        one = evaluate(Path(scratch) / "one", 1, given.questions_per_set)
        two = evaluate(Path(scratch) / "two", 2, given.questions_per_set)
        part = evaluate(Path(scratch) / "part", 1, min(PART_PER_SET, given.questions_per_set))
        is_equal = one.predictions.read_bytes() == two.predictions.read_bytes()
        changed, num_compared = differences(one.predictions, part.predictions)
    (of_one, growth_one), (of_two, growth_two) = cases_of(one), cases_of(two)
    rates = [[seen.answers / seen.answer_s] for seen in (two, one)]
    cases = [
        *of_one,
        *of_two,
        compared(f"{two.answers:,} questions, 2 ranks: answers", *rates, "1 rank", "1/s"),
        alone(f"answers changed by other batches, of {num_compared:,}", [changed], "answers"),
        alone("predictions of 2 ranks equal those of 1 byte for byte", [is_equal], "1 = yes"),
    ]
    write_record(
        given.output,
        command="make bench-evaluate",
        cases=cases,
        goal={"equal predictions": 1.0, "growth of memory, at most": FLAT_FRAC},
        met={"equal predictions": is_equal, "growth of memory, at most": max(growth_one, growth_two) <= FLAT_FRAC},
        notes="The bundled model in its search loop, one thread a rank; each evaluation was made once.",
    )
    print(f"\n{table(cases)}\nWrote {given.output}")


if __name__ == "__main__":
    main()
