"""Turn what kfp.local prints into one readable line per event, prefixed with the task.

Kept: the steps' own lines, the start, end and cache hit of every task. Left to the log file: KFP's
headers, executor inputs and output listings.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r"Executing task '([^']+)'")
_ENDED = re.compile(r"Task '([^']+)' finished with status (SUCCESS|FAILURE)")
_CACHED = re.compile(r"Task (\S+) cache hit ")
_STEP_INDENT = "    "


@dataclass(frozen=True)
class TaskRecord:
    """How one task of the run went."""

    task: str
    state: Literal["done", "cached", "failed"]
    seconds: float


@dataclass
class LogView:
    """Feed lines in, get display lines out; `records` fills up as tasks end."""

    clock: Callable[[], float] = time.monotonic
    records: list[TaskRecord] = field(default_factory=list)
    running: str = ""
    """The task that is running now; empty between tasks."""
    _since_s: float = 0.0
    _in_executor_input: bool = False

    def feed(self, raw: str) -> str:
        """Return the line to show for `raw`, or an empty string when there is nothing to show."""
        line = _COLOUR.sub("", raw.rstrip())
        if self.running and line.startswith(_STEP_INDENT):
            return self._step_line(line[len(_STEP_INDENT) :])
        if found := _ENDED.search(line):
            return self._end(found[1], "done" if found[2] == "SUCCESS" else "failed")
        if found := _CACHED.search(line):
            self._since_s = self.clock()
            return self._end(found[1], "cached")
        if found := _STARTED.search(line):
            self.running, self._since_s = found[1], self.clock()
            return self._prefixed("started")
        return ""

    def _end(self, task: str, state: Literal["done", "cached", "failed"]) -> str:
        self.running, self._in_executor_input = task, False
        seconds = self.clock() - self._since_s
        self.records.append(TaskRecord(task, state, seconds))
        said = "cached, nothing changed" if state == "cached" else f"{state} in {seconds:.1f} s"
        shown = self._prefixed(said)
        self.running = ""
        return shown

    def _step_line(self, line: str) -> str:
        if line.startswith("[KFP Executor "):
            self._in_executor_input = line.endswith("Got executor_input:")
            return ""
        if self._in_executor_input:
            self._in_executor_input = line != "}"
            return ""
        return self._prefixed(line) if line.strip() else ""

    def _prefixed(self, text: str) -> str:
        return f"{self.running:<24} | {text}"
