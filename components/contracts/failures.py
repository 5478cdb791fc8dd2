"""What a failed step leaves behind: a record with its error and the last lines it printed."""

import json
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol, TextIO

from components.contracts.errors import SearchR1Error

ERROR_FILE_VARIABLE = "SEARCHR1_ERROR_FILE"
"""Environment variable naming a JSON file that receives the error of a failed step."""
_LAST_LINES = 30
_LONGEST_LINE = 500


class FailureLog(Protocol):
    """Where the failure records of a run are kept beyond the life of a pod; no method raises."""

    def begin(self, step: str) -> None:
        """Note that an attempt is under way: of one that is killed nothing else would tell."""
        ...

    def keep(self, record: dict[str, Any]) -> None:
        """Keep a record."""
        ...

    def to_repeat(self) -> dict[str, Any]:
        """Return an earlier record that a retry would only meet again; empty when there is none."""
        ...

    def forget(self) -> None:
        """Drop the record of an earlier attempt."""
        ...


@contextmanager
def failures_reported(step: str, log: FailureLog | None = None) -> Iterator[None]:
    """Write a failure of the block to the file that `SEARCHR1_ERROR_FILE` names, and to `log`.

    Raises:
        SystemExit: the block raised an error of our tree, which is printed, or `log` has one that is not worth
            another try; carries the error's exit code.
    """
    if log and (earlier := log.to_repeat()):
        _write_error_file(earlier)
        print(f"{step}: {earlier['type']}: {earlier['message']}", file=sys.stderr)
        print("This is the error of the first attempt: trying again would not mend it.", file=sys.stderr, flush=True)
        raise SystemExit(earlier["exit_code"])
    if log:
        log.begin(step)
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        with redirect_stdout(_Noted(sys.stdout, last_lines)), redirect_stderr(_Noted(sys.stderr, last_lines)):
            yield
    except SearchR1Error as error:
        _report(step, error, last_lines, log)
        print(f"{step}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        _report(step, error, last_lines, log)
        raise
    if log:
        log.forget()


def _report(step: str, error: Exception, last_lines: deque[str], log: FailureLog | None) -> None:
    record = _record(step, error)
    _write_error_file(record)
    if log:
        log.keep({**record, "time_s": round(time.time(), 3), "last_lines": list(last_lines)})


def _record(step: str, error: Exception) -> dict[str, Any]:
    known = isinstance(error, SearchR1Error)
    return {
        "step": step,
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code if known else 1,
        "traceback": "" if known else "".join(traceback.format_exception(error)),
    }


def _write_error_file(record: dict[str, Any]) -> None:
    target = os.environ.get(ERROR_FILE_VARIABLE)
    # Among ranks the first failure is the cause, the others are its consequence.
    if target and not ("RANK" in os.environ and Path(target).exists()):
        Path(target).write_text(json.dumps(record), encoding="utf-8")


class _Noted:
    """A text stream that passes everything on and notes the last lines."""

    def __init__(self, stream: TextIO, last_lines: deque[str]) -> None:
        self._stream, self._last_lines, self._begun = stream, last_lines, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text.replace("\r", "\n")).split("\n")
        self._begun = self._begun[-_LONGEST_LINE:]
        self._last_lines.extend(line[:_LONGEST_LINE] for line in whole if line.strip())
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
