"""A cancelled run gives its GPUs back: the step's process gets SIGTERM and takes the job with it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.unit.train.fake_kubernetes import JOBS
from tests.unit.train.trainjob_stories import SCHEDULED


def waits_in_the_queue(cluster, job):
    cluster.condition(job, "Suspended", "Suspended", "TrainJob is suspended")


def trains(cluster, job):
    cluster.say(cluster.pod(job, 0, **SCHEDULED), "step 1/9")


def sigterm_after(line: str, s3_root: str, error_file: Path, started: list[subprocess.Popen]) -> tuple[int, str]:
    """Launch a job, end its launcher once it has printed `line`, and return its exit code and what it said."""
    command = [sys.executable, "-m", "tests.unit.train.launching_process", s3_root]
    environment = os.environ | {"SEARCHR1_ERROR_FILE": str(error_file), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[3],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started.append(process)
    guard = threading.Timer(60, process.kill)
    guard.start()
    said = []
    for text in process.stdout:
        said.append(text)
        if line in text:
            process.send_signal(signal.SIGTERM)
            break
    said += process.communicate()[0]
    guard.cancel()
    return process.returncode, "".join(said)


@pytest.mark.parametrize(
    ("story", "line"),
    [pytest.param(waits_in_the_queue, "Suspended", id="queued"), pytest.param(trains, "step 1/9", id="training")],
)
def test_sigterm_deletes_the_job_and_exits_143(cluster, s3_root, tmp_path, story, line):
    cluster.story = story
    exit_code, said = sigterm_after(line, s3_root, tmp_path / "error.json", [])
    assert exit_code == 143, said
    assert cluster.count("DELETE", JOBS) == 1
    assert "StoppedBySignal" in (tmp_path / "error.json").read_text()


def test_a_second_sigterm_does_not_save_the_job(cluster, s3_root, tmp_path):
    """It comes while the deletion is under way, which has to be asked for once more."""
    started = []

    def refuse(method: str, path: str) -> int | None:
        if method != "DELETE" or cluster.count("DELETE", JOBS) > 1:
            return None
        started[0].send_signal(signal.SIGTERM)
        return 503

    cluster.story, cluster.refuse = trains, refuse
    exit_code, said = sigterm_after("step 1/9", s3_root, tmp_path / "error.json", started)
    assert (exit_code, cluster.count("DELETE", JOBS)) == (143, 2), said
    assert "is deleted" in (tmp_path / "error.json").read_text()
