"""A run whose rollouts are one step ahead, killed beside one of them, ends with the bits of one that was left alone."""

import json
from pathlib import Path

import pytest

from components.contracts.manifest import Manifest
from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from tests.integration import test_resume
from tests.integration.test_resume import SETTINGS, STEPS, comparable, state_files, train, train_and_kill, weights

inputs = test_resume.inputs
# A few hundred tokens a step: single updates move the policy further than they would a large batch's.
CORRECTION = {"mode": "decoupled", "sequence_low": 0.5, "sequence_high": 2.0}
AHEAD = SETTINGS | {"max_staleness_steps": 1, "correction": CORRECTION}


@pytest.fixture(scope="module")
def both(inputs, tmp_path_factory) -> tuple[Path, Manifest, Path, Manifest]:
    whole, killed = (tmp_path_factory.mktemp(name) / "runs" for name in ("whole", "killed"))
    undisturbed = train(whole, inputs, AHEAD)
    train_and_kill(killed, inputs, AHEAD)
    (checkpoint,) = killed.glob("work/train/*/step_000002/state.json")
    assert len(json.loads(checkpoint.read_text())["ahead"]) == SETTINGS["questions_per_step"]
    return whole, undisturbed, killed, train(killed, inputs, AHEAD)


def test_killed_and_resumed_run_ends_with_the_same_bits(both):
    whole, undisturbed, killed, resumed = both
    assert weights(resumed) == weights(undisturbed)
    assert state_files(killed) == state_files(whole)
    expected, found = (read_metrics(fetch(manifest) / "metrics.jsonl") for manifest in (undisturbed, resumed))
    assert [record["step"] for record in found] == list(range(STEPS + 1))
    assert list(map(comparable, found)) == list(map(comparable, expected))


def test_episodes_were_a_step_old_and_the_engine_had_the_weights_from_before(both):
    """Only the first batch is as near to the trainer as one that was not sampled ahead."""
    records = read_metrics(fetch(both[1]) / "metrics.jsonl")[1:]
    assert [record["rollout/staleness_steps"] for record in records] == [0, 1, 1, 1, 1, 1]
    gaps = [record["kl/rollout_vs_trainer"] for record in records]
    assert gaps[0] < 1e-9 < 1e-7 < min(gaps[1:])
    assert max(record["correction/masked_episodes_frac"] for record in records) < 0.5
