"""Two ranks of which one is killed again and again end with the bits of two that were left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.manifest import Manifest
from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from tests.integration import test_resume
from tests.integration.test_resume import SETTINGS, comparable, weights

inputs = test_resume.inputs
STEPS, KILLS = 60, 20
SETTINGS_OF_TWO = SETTINGS | {"parallel": {"cpu_ranks": 2}, "save_every_steps": 1, "steps": STEPS}
MARK = "SEARCHR1_TEST_ROOT"
END_S = 90.0
"""Bound on how long the other processes may outlive a killed rank."""


def start(root: Path, inputs: dict[str, str], settings: dict = SETTINGS_OF_TWO) -> subprocess.Popen:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "components.train", "--config", str(root / "config.json")]
    command += ["--storage-root", f"file://{root}", "--output", str(root)]
    command += [f"--input={name}={path}" for name, path in inputs.items()]
    with (root / "output.txt").open("a") as stream:
        environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: str(root)}
        return subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            cwd=Path(__file__).parents[2],
            env=environment,
        )


def ranks_of(root: Path) -> list[int]:
    """Return the process ids of the ranks that train in `root`; torchrun gives each a session of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"{MARK}={root}".encode() in environment and any(e.startswith(b"LOCAL_RANK=") for e in environment):
                found.append(int(entry.name))
    return found


def lines_logged(root: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in root.glob("work/train/*/metrics.jsonl"))


def wait_for_a_random_moment(process: subprocess.Popen, root: Path, rng: random.Random) -> list[int]:
    """Return the ranks alive at a moment between their first second and their sixth step."""
    target = lines_logged(root) + rng.choice((0, 1, 2, 4, 6))
    while process.poll() is None and not (ranks_of(root) and lines_logged(root) >= target):
        time.sleep(0.2)
    time.sleep(rng.uniform(0.0, 1.0))
    return ranks_of(root)


def run_to_its_end(root: Path, inputs: dict[str, str], settings: dict = SETTINGS_OF_TWO) -> Manifest:
    process = start(root, inputs, settings)
    assert process.wait(timeout=600) == 0, (root / "output.txt").read_text()[-3000:]
    return Manifest.read(root / "manifest.json")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_rank_killed_at_twenty_random_moments_changes_no_bit(inputs, tmp_path):
    undisturbed = run_to_its_end(tmp_path / "whole", inputs)
    killed, rng, kills = tmp_path / "killed", random.Random(0), 0
    while kills < KILLS:
        process = start(killed, inputs)
        ranks = wait_for_a_random_moment(process, killed, rng)
        assert ranks, "the run ended before it was disturbed enough"
        os.kill(rng.choice(ranks), signal.SIGKILL)
        kills += 1
        assert process.wait(timeout=END_S) != 0
        limit_s = time.monotonic() + END_S
        while ranks_of(killed):
            assert time.monotonic() < limit_s, "a rank outlived its world"
            time.sleep(0.1)
    resumed = run_to_its_end(killed, inputs)
    assert weights(resumed) == weights(undisturbed)
    expected, found = (read_metrics(fetch(manifest) / "metrics.jsonl") for manifest in (undisturbed, resumed))
    assert [record["step"] for record in found] == list(range(STEPS + 1))
    assert list(map(comparable, found)) == list(map(comparable, expected))
