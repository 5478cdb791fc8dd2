"""A stand-in for Python that is asked to be torchrun: does what the file `story` in its working directory says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from components.contracts.step import OUTPUT_NAMES
from components.train.job_folder import JobFolder
from tests.unit.train.trainjob_stories import RESULT

ENDED_BY_US = 1


def leave_error(kind: str, exit_code: int) -> None:
    record = {"type": kind, "message": "what the rank said", "exit_code": exit_code}
    JobFolder(sys.argv[-1]).write_error(json.dumps(record).encode())


def end_on_sigterm(number, frame) -> None:
    leave_error("StoppedBySignal", 143)
    sys.exit(ENDED_BY_US)


def succeed() -> None:
    left = {"manifest": RESULT.to_json(), "card": "card\n", "metrics": "{}", "html": ""}
    for key, name in OUTPUT_NAMES.items():
        Path(name).write_text(left[key])
    JobFolder(sys.argv[-1]).write_result(Path())


def wait_for_sigterm() -> None:
    signal.signal(signal.SIGTERM, end_on_sigterm)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


if __name__ == "__main__":
    story = Path("story").read_text()
    Path("threads").write_text(os.environ["OMP_NUM_THREADS"])
    if story == "succeeds":
        succeed()
    elif story == "a rank fails":
        leave_error("SearchError", 4)
        sys.exit(ENDED_BY_US)
    elif story == "ends without a word":
        sys.exit(ENDED_BY_US)
    elif story == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        wait_for_sigterm()
