"""Two nodes as Kubeflow Trainer starts them: told to end, started anew, and the launcher finds the result."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.storage import open_storage
from components.train.checkpoint_names import complete_checkpoints
from components.train.config import TrainConfig
from components.train.job_folder import JobFolder
from tests.integration import test_resume
from tests.integration.test_resume import SETTINGS

inputs = test_resume.inputs
STEPS = 12
CONFIG = TrainConfig.parse(
    SETTINGS | {"steps": STEPS, "save_every_steps": 1, "parallel": {"num_nodes": 2}, "launch": {"backend": "trainjob"}}
)
END_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(uri: str, log: Path) -> list[subprocess.Popen]:
    """Start both nodes with the variables that the Trainer's torch plugin sets."""
    port = str(free_port())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--shutdown-timeout=60"]
    nodes = []
    for node in range(2):
        rendezvous = {"NNODES": "2", "NPROC_PER_NODE": "1", "NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1"}
        environment = {f"PET_{name}": value for name, value in (rendezvous | {"MASTER_PORT": port}).items()}
        with log.open("a") as stream:
            nodes.append(
                subprocess.Popen(
                    [*torchrun, "-m", "components.train.node", uri],
                    env=os.environ | environment | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                    cwd=Path(__file__).parents[2],
                    stdout=stream,
                    stderr=stream,
                )
            )
    return nodes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_that_were_told_to_end_continue_and_leave_the_result(inputs, tmp_path):
    manifests = {name: Manifest.read(path) for name, path in inputs.items()}
    context = StepContext("train", f"file://{tmp_path}/runs", "c" * 64, CONFIG.sha256())
    work = context.work_uri(manifests)
    job, log = JobFolder(f"{work}/launch/sr1-0123456789"), tmp_path / "log.txt"
    job.write_inputs(CONFIG, context, manifests)
    nodes = start(job.uri, log)
    saved = Path(work.removeprefix("file://"))
    while not (saved / "step_000003" / "_COMPLETE").exists():
        assert [node.poll() for node in nodes] == [None, None], log.read_text()[-3000:]
        time.sleep(0.1)
    for node in nodes:
        node.send_signal(signal.SIGTERM)
    assert all(node.wait(END_S) != 0 for node in nodes)
    assert job.error()["exit_code"] == 143
    assert not job.has_result()

    for node in start(job.uri, log):
        assert node.wait(END_S) == 0, log.read_text()[-3000:]
    said = log.read_text()
    assert "resuming from step" in said
    result = job.result()
    assert result.metrics["steps"] == STEPS
    assert result.manifest.inputs == {name: manifest.digest for name, manifest in manifests.items()}
    assert job.error() is None
    assert complete_checkpoints(open_storage(work))[-1] == f"step_{STEPS:06d}"
