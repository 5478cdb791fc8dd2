"""Run the DAG on this machine: a watched worker process, one readable log, nothing left behind.

Everything lies below one folder of runs: `<run_id>/` (results, written by the steps), `latest`, `store/`,
`work/`, and `kfp/` (logs and the cache of KFP). One run at a time uses such a folder.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

from components.contracts.errors import SearchR1Error, UserError
from pipeline.log_view import LogView, TaskRecord
from pipeline.processes import adopt_orphans, alive, descendants, stop_descendants

STOP_GRACE_S = 610.0
"""Longer than the worker's own grace: it may need all of that to let training save. A second signal ends it at once."""
LOCK_WAIT_S = 25.0


class StepFailed(SearchR1Error, RuntimeError):
    """A step failed; carries the exit code of its error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message, exit_code)
        self.message, self.exit_code = message, exit_code

    def __str__(self) -> str:
        return self.message


class Stopped(SearchR1Error, RuntimeError):
    """The run was stopped by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return "Stopped; no process is left. The same command continues where training last saved."


class StopSignals:
    """While entered, SIGINT, SIGTERM and SIGHUP stop every process below this one; a second one means at once.

    Nothing is raised inside a handler, where a library could swallow it: `check` does it at a safe point.
    """

    def __init__(self) -> None:
        self._strangers = frozenset(descendants())
        self._number = 0
        # A signal that whoever started us chose to ignore (nohup, a shell's background job) stays ignored.
        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self._numbers = [number for number in asked if signal.getsignal(number) != signal.SIG_IGN]

    def __enter__(self) -> Self:
        adopt_orphans()
        self._previous = [signal.signal(number, self._stop) for number in self._numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._numbers, self._previous, strict=True):
            signal.signal(number, handler)

    def check(self) -> None:
        """Return when no signal came.

        Raises:
            Stopped: one came; everything below this process has ended.
        """
        if self._number:
            raise Stopped(self._number)

    def stop_all(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stop every process started since this object was made."""
        stop_descendants(grace_s, self._strangers)

    def _stop(self, number: int, _frame: object) -> None:
        again, self._number = bool(self._number), number
        if not again:
            print("stopping; training saves first (again to stop at once)", flush=True)
        self.stop_all(0.0 if again else STOP_GRACE_S)


@dataclass(frozen=True)
class RunFolder:
    """Where a run on this machine keeps its files."""

    root: Path
    run_id: str

    @property
    def kfp(self) -> Path:
        """KFP's files of this run, its full log among them."""
        return self.root / "kfp" / self.run_id

    @property
    def log(self) -> Path:
        """Everything the run printed, unfiltered."""
        return self.kfp / "log.txt"

    @property
    def results(self) -> Path:
        """The run's summary and report."""
        return self.root / self.run_id


@contextmanager
def locked(root: Path) -> Iterator[int]:
    """Create and hold the folder of runs; yields the lock's file descriptor.

    A run whose command was killed may still be ending its steps; that is waited for.

    Raises:
        UserError: the folder cannot be written, or another run is using it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"Cannot write to {root}: {error.strerror}", "a folder this user may write to", "choose another --runs-dir"
        ) from None
    with lock:
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while not _try_lock(lock):
            lock.seek(0)
            holder = lock.read().strip()
            if time.monotonic() > deadline_s or not holder.isdigit() or alive(int(holder)):
                raise UserError(
                    f"Another run (process {holder or 'unknown'}) is using {root}",
                    remedy="wait for it, stop it, or choose another --runs-dir",
                )
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def run_dag(
    parameters: Mapping[str, str | int],
    folder: RunFolder,
    environment: Mapping[str, str],
    lock: int,
    stop: StopSignals,
    cached: bool = True,
    worker: Sequence[str] = (sys.executable, "-m", "pipeline.local_worker"),
) -> list[TaskRecord]:
    """Run the DAG to its end, printing one line per event, and return how its tasks went.

    `environment` reaches every step. The lock is handed to the worker too, so that it outlives a killed parent.

    Raises:
        StepFailed: a task failed; the message is the step's own.
        Stopped: a signal came; every process below this one has ended.
    """
    folder.kfp.mkdir(parents=True, exist_ok=True)
    error_file = folder.kfp / "error.json"
    request = folder.kfp / "request.json"
    request.write_text(json.dumps(_request(parameters, folder, cached)), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="searchr1-") as scratch:
        stop.check()
        process = subprocess.Popen(
            [*worker, str(request)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **environment, **_worker_environment(scratch, error_file)},
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            records = _watch(process, folder.log)
        finally:
            stop.stop_all()
    stop.check()
    if process.returncode != 0:
        raise _failure(error_file, folder, records)
    return records


def point_latest(folder: RunFolder) -> Path:
    """Let `latest` in the folder of runs point to this run, atomically, and return the link."""
    link = folder.root / "latest"
    fresh = folder.root / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.run_id, target_is_directory=True)
    fresh.replace(link)
    return link


def _request(parameters: Mapping[str, str | int], folder: RunFolder, cached: bool) -> dict[str, object]:
    return {
        "parent_pid": os.getpid(),
        "parameters": dict(parameters),
        "pipeline_root": str(folder.kfp),
        "cache_root": str(folder.root / "kfp" / "cache"),
        "cached": cached,
    }


def _worker_environment(scratch: str, error_file: Path) -> dict[str, str]:
    # KFP leaves a temporary folder behind for every task: TMPDIR gathers them.
    return {
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        # Steps print progress of their own; a library's bar would fill the log with its frames.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TMPDIR": scratch,
        "SEARCHR1_ERROR_FILE": str(error_file),
    }


def _watch(worker: subprocess.Popen[str], log: Path) -> list[TaskRecord]:
    """Show the worker's lines until it ends; its orphans may hold the pipe open, so it is not read to its end."""
    view = LogView()
    reader = threading.Thread(target=_show, args=(worker, log, view), daemon=True)
    reader.start()
    worker.wait()
    reader.join(timeout=5)
    return view.records


def _show(worker: subprocess.Popen[str], log: Path, view: LogView) -> None:
    with log.open("w", encoding="utf-8") as stream:
        for line in worker.stdout:
            stream.write(line)
            stream.flush()
            if shown := view.feed(line):
                print(shown, flush=True)


def _failure(error_file: Path, folder: RunFolder, records: list[TaskRecord]) -> StepFailed:
    failed = next((record.task for record in records if record.state == "failed"), "the run")
    try:
        error = json.loads(error_file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return StepFailed(f"{failed} ended without saying why (killed? out of memory?)\nFull log: {folder.log}", 1)
    said = f"{failed}: {error['type']}: {error['message']}"
    if error["traceback"]:
        last = "".join(error["traceback"].splitlines(keepends=True)[-4:-1])
        return StepFailed(f"{said}\nThis is a defect of ours, raised at\n{last}Full log: {folder.log}", 1)
    return StepFailed(said, error["exit_code"])
