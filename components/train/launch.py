"""Starts the ranks of a training where `train.launch.backend` says and brings home what the first one leaves."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from components.contracts.child_process import ended_with_parent
from components.contracts.errors import ConfigError, RanksFailed
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext, StepResult
from components.train.config import TrainConfig
from components.train.gpu_hours import with_gpu_hours
from components.train.job_folder import JobFolder
from components.train.trainjob import SHUTDOWN_S

_REMEDIES = {
    "local": 'set train.launch.backend="trainjob", or "step" and compile the pipeline with --gpus',
    "step": 'compile the pipeline with --gpus train=N and --gpu-image, or set train.launch.backend="trainjob"',
    "trainjob": "give the nodes of the cluster GPUs, or check the runtime's image and resources",
}


def launched() -> bool:
    """Return whether this process is a rank that torchrun started."""
    return "WORLD_SIZE" in os.environ


def launch(
    config: TrainConfig,
    context: StepContext,
    inputs: Mapping[str, Manifest],
    train_here: Callable[[], StepResult],
) -> StepResult:
    """Train with all ranks of `config` and return the first one's result, with what its GPUs took.

    `train_here` trains as a world of one, in this process.

    Raises:
        ConfigError: the backend cannot start these ranks, or the cluster lacks what it needs.
        RanksFailed: a rank failed; the message and the exit code are those of the first failure.
        ClusterError: the cluster failed to run the job (backend `trainjob`).
        StoppedBySignal: SIGTERM; a retry continues from the newest complete checkpoint.
    """
    if config.launch.backend == "trainjob":
        # Imported here: only this backend needs the client of Kubernetes.
        from components.train.trainjob_run import run_train_job

        return run_train_job(config, context, inputs)
    if config.parallel.num_nodes > 1:
        raise ConfigError(
            f"train.parallel.num_nodes = {config.parallel.num_nodes}, but train.launch.backend = "
            f"{config.launch.backend!r} starts ranks on one machine",
            "one machine, or the backend trainjob",
            'set train.launch.backend="trainjob", or start torchrun on each machine yourself',
        )
    check_gpus(config)
    started_s = time.monotonic()
    result = run_ranks(config, context, inputs) if config.parallel.num_ranks > 1 else train_here()
    gpu_s = (time.monotonic() - started_s) * config.parallel.gpus_per_node
    return with_gpu_hours(result, gpu_s, config.launch.usd_per_gpu_hour)


def check_gpus(config: TrainConfig) -> None:
    """Check that this machine has a GPU for every rank that shall have one; hide those that nobody asked for.

    Raises:
        ConfigError: it has fewer; training would go on in silence on CPUs.
    """
    if not config.parallel.gpus_per_node:
        # Model, engine and sharding would each take what they find.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    found = torch.cuda.device_count()
    if found < config.parallel.gpus_per_node:
        raise ConfigError(
            f"train.parallel.gpus_per_node = {config.parallel.gpus_per_node}, but this machine shows {found} GPUs",
            f"at most {found}",
            _REMEDIES[config.launch.backend],
        )


def run_ranks(config: TrainConfig, context: StepContext, inputs: Mapping[str, Manifest]) -> StepResult:
    """Run the train step as `config.parallel.ranks_per_node` processes and return the first one's result.

    Raises:
        RanksFailed: a rank failed; the message and the exit code are those of the first failure.
    """
    with tempfile.TemporaryDirectory(prefix="train-ranks-") as scratch:
        job = JobFolder(Path(scratch).as_uri())
        job.write_inputs(config, context, inputs)
        _follow(command(config, job.uri), os.environ | {"OMP_NUM_THREADS": str(config.threads)}, job)
        return job.result()


def command(config: TrainConfig, folder_uri: str) -> list[str]:
    """Return the torchrun command: a rendezvous of its own on a free port, no restarts (the step's retry resumes).

    Whoever sends SIGTERM decides how long the ranks have to save, not torchrun, which would kill them after 30 s.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--shutdown-timeout={SHUTDOWN_S}"]
    torchrun += ["--nproc-per-node", str(config.parallel.ranks_per_node), "--max-restarts", "0"]
    return [*torchrun, "-m", "components.train.node", folder_uri]


def _follow(arguments: list[str], environment: Mapping[str, str], job: JobFolder) -> None:
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
    if record := job.error():
        raise RanksFailed(f"{record['type']}: {record['message']}", record["exit_code"])
    raise RanksFailed(f"torchrun ended with exit code {code}; the log above says why", 143 if code < 0 else 1)
