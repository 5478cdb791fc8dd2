"""`metrics.jsonl`: the truth about a run, whatever happens to the tracking server.

One JSON object per line: `step`, `attempt` (1, then one more for every time the folder is opened again),
`time_s` (seconds since 1970) and the metrics by name; a value that is not finite is `null`.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from components.contracts.errors import StorageError

METRICS_NAME = "metrics.jsonl"
_BOOKKEEPING = ("step", "attempt", "time_s")


class MetricsFile:
    """Appends to the `metrics.jsonl` of one folder; each line is with the operating system when `append` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS_NAME
        records = _records(self.path)
        self.attempt = 1 + max((record["attempt"] for record in records), default=0)
        _drop_torn_line(self.path)

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Write one line.

        Raises:
            StorageError: the disk refuses.
        """
        record: dict[str, Any] = {"step": step, "attempt": self.attempt, "time_s": round(time.time(), 3)}
        record |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return one record per step in step order: `step`, `attempt`, `time_s` and the metrics, `null` as NaN.

    Lines of one step are merged. When a later attempt begins at step s, what earlier attempts wrote from
    s on is gone: those steps were taken again from a checkpoint. A line torn by a crash is skipped.
    """
    by_step: dict[int, dict[str, Any]] = {}
    attempt = 0
    for record in _records(path):
        if record["attempt"] > attempt:
            attempt = record["attempt"]
            by_step = {step: kept for step, kept in by_step.items() if step < record["step"]}
        by_step.setdefault(record["step"], {}).update(record)
    return [_with_nan(by_step[step]) for step in sorted(by_step)]


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [record for line in path.read_text(encoding="utf-8").splitlines() if (record := _parsed(line))]


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) and all(name in record for name in _BOOKKEEPING) else {}


def _with_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in record.items()}


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
