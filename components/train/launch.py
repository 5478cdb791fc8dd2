"""Starts the ranks of a training on this machine with torchrun and brings home what the first one leaves."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from components.contracts.child_process import ended_with_parent
from components.contracts.errors import RanksFailed
from components.contracts.manifest import Manifest
from components.contracts.step import ERROR_FILE_VARIABLE, OUTPUT_NAMES, StepContext, StepResult
from components.train.config import TrainConfig


def launched() -> bool:
    """Return whether this process is a rank that torchrun started."""
    return "WORLD_SIZE" in os.environ


def run_ranks(config: TrainConfig, context: StepContext, inputs: Mapping[str, Manifest]) -> StepResult:
    """Run the train step as `config.parallel.ranks_per_node` processes and return the first one's result.

    Raises:
        RanksFailed: a rank failed; the message and the exit code are those of the first failure.
    """
    with tempfile.TemporaryDirectory(prefix="train-ranks-") as scratch:
        folder = Path(scratch)
        settings = {
            "storage_root": context.storage_root,
            "code_sha256": context.code_sha256,
            "config": config.model_dump(mode="json"),
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        for name, manifest in inputs.items():
            (folder / f"{name}.json").write_text(manifest.to_json(), encoding="utf-8")
        environment = os.environ | {
            ERROR_FILE_VARIABLE: str(folder / "error.json"),
            "OMP_NUM_THREADS": str(config.threads),
        }
        _follow(command(config, folder, list(inputs)), environment, folder / "error.json")
        read = {key: (folder / "out" / name).read_text(encoding="utf-8") for key, name in OUTPUT_NAMES.items()}
    return StepResult(Manifest.from_json(read["manifest"]), read["card"], json.loads(read["metrics"]), read["html"])


def command(config: TrainConfig, folder: Path, inputs: list[str]) -> list[str]:
    """Return the torchrun command: a rendezvous of its own on a free port, no restarts (the step's retry resumes)."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", str(config.parallel.ranks_per_node), "--max-restarts", "0"]
    step = ["-m", "components.train", "--settings", str(folder / "settings.json"), "--output", str(folder / "out")]
    for name in inputs:
        step += ["--input", f"{name}={folder / f'{name}.json'}"]
    return torchrun + step


def _follow(arguments: list[str], environment: Mapping[str, str], error_file: Path) -> None:
    process = subprocess.Popen(arguments, env=environment, preexec_fn=ended_with_parent(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code == 0:
        return
    if error_file.exists():
        record = json.loads(error_file.read_text(encoding="utf-8"))
        raise RanksFailed(f"{record['type']}: {record['message']}", record["exit_code"])
    raise RanksFailed(f"torchrun ended with exit code {code}; the log above says why", 143 if code < 0 else 1)
