"""Several ranks take the steps that one takes: the same episodes, losses and gradients, from the same questions.

Later on rounding, which Adam's first steps blow up, lets them part; until then any difference is a fault.
"""

import json

import pytest

from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from tests.integration import test_resume
from tests.integration.test_ranks_killed import run_to_its_end
from tests.integration.test_resume import SETTINGS

inputs = test_resume.inputs
STEPS = 3
OF_THE_MACHINE = ("time", "perf/", "progress/gpu_hours", "kl/rollout_vs_trainer", "kl/ref", "engine/")
"""Metrics that tell of the machine, or of rounding alone."""


def learned(root, inputs, algorithm: str, **parallel) -> list[dict[str, float]]:
    """Return the metrics of every step, a record for each."""
    settings = SETTINGS | {"steps": STEPS, "algorithm": algorithm, "parallel": parallel}
    # Evaluations and saves between the steps must not part them either.
    settings |= {"dev": SETTINGS["dev"] | {"every_steps": 1}, "save_every_steps": 1}
    settings |= {"episodes_per_question": 4 if algorithm == "grpo" else 1}
    manifest = run_to_its_end(root, inputs, json.loads(json.dumps(settings)))
    records = read_metrics(fetch(manifest) / "metrics.jsonl")
    return [{k: v for k, v in record.items() if not k.startswith(OF_THE_MACHINE)} for record in records]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
@pytest.mark.parametrize("world", [2, 4])
def test_several_ranks_learn_as_one_does(algorithm, world, inputs, tmp_path):
    alone = learned(tmp_path / "alone", inputs, algorithm)
    together = learned(tmp_path / "together", inputs, algorithm, cpu_ranks=world)
    assert len(alone) == len(together) == STEPS + 1
    for one, several in zip(alone, together, strict=True):
        assert several == pytest.approx(one, rel=1e-3, abs=1e-6)
    assert any(record["grad_norm"] > 0 for record in alone[1:])
    assert any(record["reward/std"] > 0 for record in alone[1:])
