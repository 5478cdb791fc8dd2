"""Tracking that must start and then never stops the work.

`open_tracker` fails when a tracking server is configured and cannot be reached. Afterwards the server
may come and go: `metrics.jsonl` gets every step, one warning is printed, and what the server missed is
sent again once it answers. Steps the server already has from an earlier attempt go to the file only.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from components.contracts.errors import StoppedBySignal, TrackingError
from components.tracking.client import TRACKING_URI_VARIABLE
from components.tracking.metrics_file import MetricsFile
from components.tracking.run import ATTEMPT_METRIC, RUN_ID_VARIABLE, MlflowRun, Point

Status = Literal["FINISHED", "FAILED", "KILLED"]
NONFINITE_METRIC = "health/nonfinite"
"""How many metrics of the step were not finite; logged when there was one."""
_SILENCE_S = 60.0
"""Between two tries of a server that failed: each may block for seconds."""
_MOST_PENDING_POINTS = 200_000


class TrackedRun(Protocol):
    """Where points go besides the file; methods raise `TrackingError`."""

    run_id: str
    url: str

    def log(self, points: list[Point]) -> None:
        """Log points in one call."""
        ...

    def log_artifact(self, path: Path, folder: str) -> None:
        """Upload a file."""
        ...

    def finish(self, status: str) -> None:
        """Set the final status."""
        ...


class NoRun:
    """No tracking server: the file is all there is."""

    run_id = ""
    url = ""

    def log(self, points: list[Point]) -> None:
        """Do nothing."""

    def log_artifact(self, path: Path, folder: str) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""


class Tracker:
    """Logs one step at a time; as a context manager it closes with the status that fits the exception."""

    def __init__(
        self,
        file: MetricsFile,
        run: TrackedRun,
        highest_step: int = -1,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._run, self._clock_s = file, run, clock_s
        self._resumed_from_step = highest_step
        self._last_step: dict[str, int] = {}
        self._pending: list[Point] = []
        self._quiet_until_s = -math.inf
        self._warned = False

    @property
    def run_id(self) -> str:
        """The MLflow run's id; empty without a tracking server."""
        return self._run.run_id

    @property
    def url(self) -> str:
        """Where to see the run; empty without a tracking server."""
        return self._run.url

    @property
    def mlflow(self) -> dict[str, str]:
        """The `mlflow` entry of a manifest."""
        return {"run_id": self.run_id, "url": self.url} if self.run_id else {}

    @property
    def attempt(self) -> int:
        """1 for a fresh folder, one more for each time it was opened again."""
        return self._file.attempt

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step: a line in the file, one call to the server; never raises for the server."""
        values = {name: float(value) for name, value in metrics.items()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if len(finite) < len(values):
            count = float(len(values) - len(finite))
            values[NONFINITE_METRIC] = finite[NONFINITE_METRIC] = count
        self._file.append(step, values)
        if step <= self._resumed_from_step:
            return
        now_ms = int(time.time() * 1000)
        for name, value in (finite | {ATTEMPT_METRIC: float(self.attempt)}).items():
            # The server keeps both points of a repeated step and draws a zigzag.
            if step > self._last_step.get(name, self._resumed_from_step):
                self._last_step[name] = step
                self._pending.append(Point(name, value, step, now_ms))
        self._send()

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file into `folder` of the run's artifacts; a failure is a warning."""
        self._softly(lambda: self._run.log_artifact(path, folder))

    def close(self, status: Status = "FINISHED") -> None:
        """Send what is pending and give the run its status; a failure is a warning."""
        self._quiet_until_s = -math.inf
        self._send()
        self._softly(lambda: self._run.finish(status))
        if self._pending:
            _warn(f"{len(self._pending)} points never reached the tracking server; {self._file.path} has them")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close("FINISHED")
        else:
            killed = isinstance(error, StoppedBySignal) or not isinstance(error, Exception)
            self.close("KILLED" if killed else "FAILED")

    def _send(self) -> None:
        if self._pending and self._clock_s() >= self._quiet_until_s:
            if self._softly(lambda: self._run.log(self._pending)):
                self._pending = []
            else:
                self._quiet_until_s = self._clock_s() + _SILENCE_S
        del self._pending[:-_MOST_PENDING_POINTS]

    def _softly(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except TrackingError as error:
            if not self._warned:
                _warn(f"{error}; work goes on, {self._file.path} keeps every step")
            self._warned = True
            return False
        return True


def open_tracker(
    run_name: str, folder: Path, tags: Mapping[str, str] | None = None, params: Mapping[str, Any] | None = None
) -> Tracker:
    """Return a tracker that writes `folder/metrics.jsonl` and, when a server is configured, its MLflow run.

    `MLFLOW_RUN_ID` is attached to; else a run is resumed or created on `MLFLOW_TRACKING_URI`, below
    `SEARCHR1_MLFLOW_PARENT_RUN_ID` if that is set; without a tracking URI there is the file alone.
    `params` are logged under `cfg/`, nested ones with dots.

    Raises:
        TrackingError: a server is configured and cannot be reached, or refuses.
    """
    if not os.environ.get(TRACKING_URI_VARIABLE):
        if os.environ.get(RUN_ID_VARIABLE):
            raise TrackingError(f"{RUN_ID_VARIABLE} is set but {TRACKING_URI_VARIABLE} is not")
        return silent_tracker(folder)
    file = MetricsFile(folder)
    run = MlflowRun.open(run_name, folder, tags or {}, params or {})
    highest_step = run.highest_step()
    if file.attempt > 1:
        run.set_tags({"attempt": str(file.attempt), "resumed_from_step": str(highest_step)})
    return Tracker(file, run, highest_step)


def silent_tracker(folder: Path) -> Tracker:
    """Return a tracker that writes `folder/metrics.jsonl` and speaks to no server, whatever is configured."""
    return Tracker(MetricsFile(folder), NoRun())


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
