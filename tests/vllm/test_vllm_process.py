"""Engines in processes of their own: one after the other, asleep, and on two ranks under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
HERE = Path(__file__).parent
SETTINGS = {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def finished(*command) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=os.environ | SETTINGS, capture_output=True, text=True, timeout=850
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


def test_engines_one_after_the_other_and_asleep(cutting_folder):
    assert "all good" in finished(HERE / "one_process.py", cutting_folder)


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_ranks_publish_sharded_weights_to_an_engine_each_or_to_one(cutting_folder, tensor_parallel):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    printed = finished(*torchrun, HERE / "ranks.py", cutting_folder, tensor_parallel)
    assert "rank 0 good" in printed
    assert "rank 1 good" in printed
