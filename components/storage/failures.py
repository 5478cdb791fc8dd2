"""Failure records of a run: `<storage_root>/<run_id>/failures/<task>.json`, for whoever reports the end of the run.

All of it is best effort: a record that cannot be written or read never hides the failure it is about.
"""

import json
import os
import time
from contextlib import suppress
from typing import Any, Self

from components.contracts.errors import FINAL_EXIT_CODES, SearchR1Error
from components.storage.local import LocalStorage
from components.storage.open import open_storage

RUN_ID_VARIABLE = "SEARCHR1_RUN_ID"
TASK_VARIABLE = "SEARCHR1_TASK"
"""Environment variable naming the task, which differs from the step where several tasks run one step."""
RETRIES_VARIABLE = "SEARCHR1_RETRIES"
"""Environment variable with the number of times Kubeflow starts a failed task again by itself."""
_FOLDER = "failures"
KILLED = "Killed"
"""Type of the record that stays when an attempt ends without a word."""
_KILLED_MESSAGE = (
    "the pod ended before it could say why: out of memory, evicted, deadline passed, or the run was ended. "
    "`kubectl describe pod` and the run's page tell which"
)
_KILLED_EXIT_CODE = 137


class TaskFailures:
    """The failure record of one task of one run."""

    def __init__(self, storage_root: str, run_id: str, task: str, retries: int) -> None:
        self._uri, self._run_id, self._task, self._retries = storage_root.rstrip("/"), run_id, task, retries

    @classmethod
    def of_environment(cls, storage_root: str, step: str) -> Self:
        """Return the record of the task this process is; without a run id nothing is kept."""
        retries = os.environ.get(RETRIES_VARIABLE, "0")
        task = os.environ.get(TASK_VARIABLE) or step
        return cls(storage_root, os.environ.get(RUN_ID_VARIABLE, ""), task, int(retries) if retries.isdigit() else 0)

    def begin(self, step: str) -> None:
        """Store what is true of this attempt unless it ends in another way."""
        record = {"step": step, "type": KILLED, "message": _KILLED_MESSAGE, "exit_code": _KILLED_EXIT_CODE}
        self.keep({**record, "time_s": round(time.time(), 3), "last_lines": []})

    def keep(self, record: dict[str, Any]) -> None:
        """Store the record of a failure."""
        self._put({**record, "task": self._task, "retries_left": self._retries})

    def to_repeat(self) -> dict[str, Any]:
        """Return the error that this automatic retry would only meet again, an empty record when there is none.

        Kubeflow retries whatever failed. Every retry it still has uses the record up by one: when a person starts
        the task again after that, it really runs.
        """
        record = self._get()
        left = record.get("retries_left", 0)
        if record.get("exit_code") not in FINAL_EXIT_CODES or not isinstance(left, int) or left <= 0:
            return {}
        self._put({**record, "retries_left": left - 1})
        return record

    def forget(self) -> None:
        """Delete the record: the task succeeded in a later attempt."""
        if self._get():
            try:
                storage = open_storage(self._folder())
                storage.delete(self._key())
                if isinstance(storage, LocalStorage):
                    # The folder of a run that nothing failed in shows no trace of failures; another record keeps it.
                    with suppress(OSError):
                        storage.root.rmdir()
            except SearchR1Error as error:
                _warn(error)

    def _folder(self) -> str:
        return f"{self._uri}/{self._run_id}/{_FOLDER}"

    def _key(self) -> str:
        return f"{self._task}.json"

    def _put(self, record: dict[str, Any]) -> None:
        if not self._run_id:
            return
        try:
            open_storage(self._folder()).put_bytes(json.dumps(record).encode(), self._key())
        except SearchR1Error as error:
            _warn(error)

    def _get(self) -> dict[str, Any]:
        if not self._run_id:
            return {}
        try:
            record = json.loads(open_storage(self._folder()).get_bytes(self._key()))
        except (SearchR1Error, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def failures_of(storage_root: str, run_id: str) -> list[dict[str, Any]]:
    """Return the failure records of a run, the earliest first; those of killed tasks come last.

    Raises:
        UserError: the storage root is malformed.
        StorageError: the storage refuses.
    """
    storage = open_storage(f"{storage_root.rstrip('/')}/{run_id}/{_FOLDER}")
    records = []
    for info in storage.list():
        try:
            record = json.loads(storage.get_bytes(info.key))
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return sorted(records, key=lambda record: (record.get("type") == KILLED, float(record.get("time_s", 0.0))))


def _warn(error: SearchR1Error) -> None:
    print(f"warning: the failure record of this task is not stored: {error}", flush=True)
