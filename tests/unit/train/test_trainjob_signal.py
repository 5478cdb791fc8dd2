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


@pytest.mark.parametrize(
    ("story", "line"),
    [pytest.param(waits_in_the_queue, "Suspended", id="queued"), pytest.param(trains, "step 1/9", id="training")],
)
def test_sigterm_deletes_the_job_and_exits_143(cluster, s3_root, tmp_path, story, line):
    cluster.story = story
    command = [sys.executable, "-m", "tests.unit.train.launching_process", s3_root]
    environment = os.environ | {"SEARCHR1_ERROR_FILE": str(tmp_path / "error.json"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[3],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
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
    assert process.returncode == 143, "".join(said)
    assert cluster.count("DELETE", JOBS) == 1
    assert "StoppedBySignal" in (tmp_path / "error.json").read_text()
