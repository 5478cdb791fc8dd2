"""A training run that was killed and started again ends with the same bits as one that was left alone."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.base_model import main as base_model_step
from components.base_model.config import BaseModelConfig
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.corpus import main as corpus_step
from components.corpus.config import CorpusConfig
from components.index import main as index_step
from components.index.config import IndexConfig
from components.questions import main as questions_step
from components.questions.config import QuestionsConfig
from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from components.train.config import TrainConfig
from components.train.main import step as train_step

STEPS = 6
WORLD = "world://mini?seed=1"
SETTINGS = {
    "steps": STEPS,
    "questions_per_step": 16,
    "minibatches": 2,
    "save_every_steps": 2,
    "dev": {"every_steps": 2, "max_questions": 8, "min_valid_action_frac": 0.0},
    # So few untrained episodes are hardly ever right: partial credit gives rewards that differ.
    "reward": {"outcome": "f1", "format_reward": 0.1},
    # Small batches are noisy: at the usual rate the model unlearns searching within these few steps.
    "policy_optimizer": {"learning_rate": 5e-5},
    "loop": {"max_searches": 2},
    "num_slots": 16,
    "threads": 1,
    "seed": 5,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """Manifest files of a mini world: its index, its questions, and the bundled base model."""
    folder = tmp_path_factory.mktemp("inputs")
    manifests = {
        "base_model": execute(base_model_step, "base_model", BaseModelConfig(), folder),
        "questions": execute(questions_step, "questions", QuestionsConfig(uri=WORLD), folder),
    }
    corpus = execute(corpus_step, "corpus", CorpusConfig(uri=WORLD), folder)
    manifests["index"] = execute(index_step, "index", IndexConfig(threads=1, heap="256m"), folder, corpus=corpus)
    for name, manifest in manifests.items():
        (folder / f"{name}.json").write_text(manifest.to_json())
    return {name: str(folder / f"{name}.json") for name in manifests}


def execute(module, name: str, config, folder: Path, **given: Manifest) -> Manifest:
    context = StepContext(name, f"file://{folder}/runs", "0" * 64, config.sha256())
    return module.run(config, context, **given).manifest


def train(root: Path, inputs: dict[str, str], settings: dict = SETTINGS) -> Manifest:
    """Run the step to its end in this process."""
    config = TrainConfig.parse(settings).model_dump(mode="json")
    given = {"storage_root": f"file://{root}", "code_sha256": "0" * 64, "config": config}
    train_step.execute(json.dumps(given), inputs, {"manifest": str(root / "manifest.json")})
    return Manifest.read(root / "manifest.json")


def train_and_kill(root: Path, inputs: dict[str, str], settings: dict = SETTINGS) -> None:
    """Run the step as its own process and SIGKILL it two steps or more before the end, past its last checkpoint."""
    config = root.parent / "config.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "components.train", "--config", str(config), "--storage-root", f"file://{root}"]
    command += ["--output", str(root), *(f"--input={name}={path}" for name, path in inputs.items())]
    output = root.parent / "killed.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=Path(__file__).parents[2])
    while not [line for file in root.glob("work/train/*/metrics.jsonl") for line in file.open() if '"step": 3' in line]:
        assert process.poll() is None, output.read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def weights(manifest: Manifest) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(".safetensors")}


def state_files(root: Path) -> dict[str, bytes]:
    """Weights and optimizer moments of the last checkpoint."""
    (folder,) = root.glob(f"work/train/*/step_{STEPS:06d}")
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def comparable(record: dict) -> dict:
    clocks = ("time", "perf", "attempt")
    return {name: value for name, value in record.items() if not name.startswith(clocks)}


@pytest.fixture(scope="module")
def both(inputs, tmp_path_factory) -> tuple[Path, Manifest, Path, Manifest]:
    whole, killed = (tmp_path_factory.mktemp(name) / "runs" for name in ("whole", "killed"))
    undisturbed = train(whole, inputs)
    train_and_kill(killed, inputs)
    assert not (killed / "store").exists()
    assert not (killed / "manifest.json").exists()
    return whole, undisturbed, killed, train(killed, inputs)


def test_killed_and_resumed_run_ends_with_the_same_bits(both):
    whole, undisturbed, killed, resumed = both
    assert weights(undisturbed).keys() == {"model/model.safetensors"}
    assert weights(resumed) == weights(undisturbed)
    assert len(state_files(whole)) == 4
    assert state_files(killed) == state_files(whole)


def test_no_step_is_lost_or_doubled(both):
    _, undisturbed, _, resumed = both
    expected, found = (read_metrics(fetch(manifest) / "metrics.jsonl") for manifest in (undisturbed, resumed))
    assert [record["step"] for record in found] == list(range(STEPS + 1))
    assert {record["attempt"] for record in expected} == {1}
    assert [record["attempt"] for record in found] == sorted(record["attempt"] for record in found)
    assert {record["attempt"] for record in found} == {1, 2}
    assert list(map(comparable, found)) == list(map(comparable, expected))
    assert resumed.metadata["em_curve"] == undisturbed.metadata["em_curve"]


def test_the_episodes_kept_for_readers_are_the_same(both):
    _, undisturbed, _, resumed = both
    expected, found = (
        {e.path: e.sha256 for e in made.files if "rollouts/" in e.path} for made in (undisturbed, resumed)
    )
    assert list(expected) == [f"rollouts/step_{step:06d}.json" for step in (2, 4, 6)]
    assert found == expected


def test_the_run_had_something_to_lose(both, inputs):
    """Searches, rewards that differ and weights that moved: equality above means something."""
    _, undisturbed, _, _ = both
    records = read_metrics(fetch(undisturbed) / "metrics.jsonl")[1:]
    assert all(record["rollout/num_searches/mean"] > 0.5 for record in records)
    assert all(0 < record["reward/mean"] < 1 for record in records)
    assert all(math.isfinite(record["loss/policy"]) and record["grad_norm"] > 0 for record in records)
    assert weights(undisturbed) != weights(Manifest.read(inputs["base_model"]))


def test_run_killed_after_its_last_step_publishes_the_same(both, inputs):
    _, _, killed, resumed = both
    again = train(killed, inputs)
    assert weights(again) == weights(resumed)
    assert [record["step"] for record in read_metrics(fetch(again) / "metrics.jsonl")] == list(range(STEPS + 1))


def test_training_with_other_rows_goes_on_from_a_stopped_one(both, inputs, tmp_path, capfd):
    whole, undisturbed, _, _ = both
    (stopped,) = (whole / "work" / "train").iterdir()
    changed = {"row_tokens": 96, "steps": STEPS + 2, "continue_from": stopped.as_uri()}
    longer = train(tmp_path / "runs", inputs, SETTINGS | changed)
    assert f"continuing from step_{STEPS:06d} of {stopped.as_uri()}" in capfd.readouterr().out
    assert longer.metadata["em_curve"][: STEPS // 2 + 1] == undisturbed.metadata["em_curve"]
    records = read_metrics(fetch(longer) / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(STEPS + 3))


@pytest.mark.parametrize("changed", [{"seed": 6}, {"loss": {"clip_low": 0.1}}])
def test_another_config_never_resumes_from_these_checkpoints(changed, inputs, tmp_path):
    manifests = {name: Manifest.read(path) for name, path in inputs.items()}
    uris = [
        StepContext("train", f"file://{tmp_path}", "0" * 64, TrainConfig.parse(values).sha256()).work_uri(manifests)
        for values in (SETTINGS, SETTINGS | changed)
    ]
    assert uris[0] != uris[1]
