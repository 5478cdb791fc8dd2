"""Evaluates 50,000 small-world questions on one rank and on two: time, memory over time, and whether both agree.

    .venv/bin/python benchmarks/evaluate_50k.py [--questions-per-set N] [--output FILE]

It starts `searchr1 evaluate` on the bundled model as a person would, in folders of its own, and looks at its
processes while they work. Memory of a process is its resident set, Java's included. A third evaluation asks a part of
the questions, which therefore meet other batches: how many answers does that change?
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

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
    load_average: float = 0.0
    cpu_s: float = 0.0
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
    seen.cpu_s = sum(os.times()[2:4])
    seen.load_average = os.getloadavg()[2]
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


def cases_of(seen: Watched) -> list[dict]:
    """Return rate, peak and growth of one evaluation."""
    asking = [(answers, size) for answers, size in seen.memory if answers < seen.total]
    peak = max(size for _, size in seen.memory)
    early = max((size for answers, size in asking if answers <= 0.2 * seen.total), default=peak)
    late = max((size for answers, size in asking if answers > 0.2 * seen.total), default=peak)
    name = f"{seen.answers:,} questions, {seen.ranks} rank{'s' * (seen.ranks > 1)}"
    return [
        _case(f"{name}: time", seen.answer_s, "s"),
        _case(f"{name}: answers per second", seen.answers / seen.answer_s, "1/s"),
        _case(f"{name}: peak memory of a process", peak / 2**20, "MiB"),
        _case(
            f"{name}: most memory of a process after a fifth of the questions, against before",
            late / 2**20,
            "MiB",
            peer=early / 2**20,
            peer_name="the same process in the first fifth",
        ),
        _case(f"{name}: load average of the machine at the end", seen.load_average, "processes"),
    ]


def differences(whole: Path, part: Path) -> tuple[int, int]:
    """Return how many questions of `part` were answered otherwise in `whole`, and how many there are."""
    columns = ["question_id", "prediction", "num_searches", "num_model_tokens", "stop_reason"]
    rows = [
        {row.pop("question_id"): row for row in pq.read_table(p, columns=columns).to_pylist()} for p in (whole, part)
    ]
    return sum(row != rows[0][name] for name, row in rows[1].items()), len(rows[1])


def _case(case: str, ours: float, unit: str, peer: float | None = None, peer_name: str = "") -> dict:
    ratio = round(ours / peer, 4) if peer else None
    shown = {"case": case, "ours": round(ours, 2), "peer": round(peer, 2) if peer else None, "peer_name": peer_name}
    return shown | {"unit": unit, "ratio": ratio, "repeats": 1, "spread": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions-per-set", type=int, default=100_000, help="fewer for a quick look (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "evaluate-50k.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evaluate-50k-") as scratch:
        one = evaluate(Path(scratch) / "one", 1, given.questions_per_set)
        two = evaluate(Path(scratch) / "two", 2, given.questions_per_set)
        part = evaluate(Path(scratch) / "part", 1, min(PART_PER_SET, given.questions_per_set))
        is_equal = one.predictions.read_bytes() == two.predictions.read_bytes()
        changed, compared = differences(one.predictions, part.predictions)
    speed_up = _case("two ranks: time", two.answer_s, "s", peer=one.answer_s, peer_name="one rank")
    equal = _case("predictions of two ranks equal those of one byte for byte", is_equal, "")
    other = _case(f"answers changed by other batches, of {compared:,}", changed, "answers")
    cases = [*cases_of(one), *cases_of(two), speed_up, equal, other]
    growth = max(case["ratio"] for case in cases if case["case"].endswith("against before"))
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    record = {
        "name": "evaluate-50k",
        "command": "python benchmarks/evaluate_50k.py",
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "gpu": ""},
        "cases": cases,
        "goal": f"equal predictions; memory after a fifth of the questions at most {1 + FLAT_FRAC} of that before",
        "met": is_equal and growth <= 1 + FLAT_FRAC,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {given.output}; goal {'met' if record['met'] else 'missed'}")


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
