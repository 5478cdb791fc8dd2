"""Two ranks whose rollouts are one step ahead: a killed one changes no bit, and stealing tasks goes with it."""

import math
import os
import signal
import time

import pytest

from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from tests.integration import test_resume
from tests.integration.test_ranks_killed import END_S, lines_logged, ranks_of, run_to_its_end, start
from tests.integration.test_resume import SETTINGS, STEPS, comparable, weights
from tests.integration.test_resume_ahead import AHEAD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
inputs = test_resume.inputs
FIXED = AHEAD | {"parallel": {"cpu_ranks": 2}}
STEALING = AHEAD | {"parallel": {"cpu_ranks": 2, "share_rollouts": "stealing"}}


def test_rank_killed_beside_a_rollout_ahead_changes_no_bit(inputs, tmp_path):
    undisturbed = run_to_its_end(tmp_path / "whole", inputs, FIXED)
    killed = tmp_path / "killed"
    process = start(killed, inputs, FIXED)
    while lines_logged(killed) < 4:
        assert process.poll() is None, (killed / "output.txt").read_text()[-3000:]
        time.sleep(0.02)
    os.kill(ranks_of(killed)[1], signal.SIGKILL)
    assert process.wait(timeout=END_S) != 0
    resumed = run_to_its_end(killed, inputs, FIXED)
    assert weights(resumed) == weights(undisturbed)
    expected, found = (read_metrics(fetch(manifest) / "metrics.jsonl") for manifest in (undisturbed, resumed))
    assert [record["step"] for record in found] == list(range(STEPS + 1))
    assert list(map(comparable, found)) == list(map(comparable, expected))
    assert {record["attempt"] for record in found} == {1, 2}
    assert [record["rollout/staleness_steps"] for record in found[1:]] == [0, 1, 1, 1, 1, 1]


def test_ranks_steal_tasks_of_a_rollout_ahead(inputs, tmp_path):
    made = run_to_its_end(tmp_path / "stealing", inputs, STEALING)
    records = read_metrics(fetch(made) / "metrics.jsonl")[1:]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    for record in records:
        assert sum(value for name, value in record.items() if name.startswith("stop/")) == pytest.approx(1.0)
        assert math.isfinite(record["loss/policy"])
        assert 0 < record["perf/gpu_idle_frac"] < 1
        assert 0.5 < record["rollout/num_searches/mean"] <= SETTINGS["loop"]["max_searches"]
