"""The file a benchmark leaves behind: `results/<name>.json`, made to be read by programs and quoted by people."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Case:
    """Medians of both sides of one comparison; a case without a peer has peer_name "" and ratio None."""

    case: str
    ours: float
    peer: float | None
    peer_name: str
    unit: str
    ratio: float | None
    """Ours over the peer's, or the peer's over ours where less is better, so that more always is; the median of the
    ratios of neighbouring repeats."""
    repeats: int
    spread: list[float]
    """Smallest and largest ratio of the repeats; of our own figures where there is no peer."""


def compared(
    case: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, unit: str, *, less_is_better: bool = False
) -> Case:
    """Return the case of two sides that were measured in turns, in the order measured."""
    ratios = [other / own if less_is_better else own / other for own, other in zip(ours, peer, strict=True)]
    return Case(
        case,
        _digits(statistics.median(ours)),
        _digits(statistics.median(peer)),
        peer_name,
        unit,
        _digits(statistics.median(ratios)),
        len(ratios),
        [_digits(min(ratios)), _digits(max(ratios))],
    )


def alone(case: str, ours: Sequence[float], unit: str) -> Case:
    """Return a case without a peer."""
    spread = [_digits(min(ours)), _digits(max(ours))]
    return Case(case, _digits(statistics.median(ours)), None, "", unit, None, len(ours), spread)


def write_record(
    path: Path, *, command: str, cases: Sequence[Case], goal: dict[str, float], met: dict[str, bool], notes: str
) -> None:
    """Write the record of one benchmark to `path`, whose stem is its name; the notes end with the machine's load."""
    record = {
        "name": path.stem,
        "command": command,
        "commit": _commit(),
        "machine": machine(),
        "cases": [asdict(case) for case in cases],
        "goal": goal,
        "met": met,
        "notes": f"{notes} Load average at the end: {os.getloadavg()[1]:.0f}.",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def table(cases: Sequence[Case]) -> str:
    """Return the cases as aligned text."""
    lines = [f"{'case':<52} {'ours':>9} {'peer':>9}  {'ratio':>6}  {'spread':<14} unit"]
    for case in cases:
        name = f"{case.case} / {case.peer_name}" if case.peer_name else case.case
        peer = "-" if case.peer is None else f"{case.peer:,.4g}"
        ratio = "-" if case.ratio is None else f"{case.ratio:.2f}"
        spread = f"{case.spread[0]:.4g}..{case.spread[1]:.4g}"
        lines.append(f"{name:<52} {case.ours:>9,.4g} {peer:>9}  {ratio:>6}  {spread:<14} {case.unit}")
    return "\n".join(lines)


def machine() -> dict[str, str | int]:
    """Return what the figures depend on: cpu, cores and gpu."""
    return {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "gpu": _gpu()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _commit() -> str:
    """Return the commit, with a mark when the tree holds changes besides results."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changes else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _digits(value: float) -> float:
    """Round to four significant digits: more would pretend."""
    return float(f"{value:.4g}")
