"""What each step may use and how it is treated: cpu, memory, retries, deadline, cache policy.

The requests fit the bundled small world, `compile_pipeline(gpus=...)` raises them where GPUs are; kfp.local ignores
all of it but the cache policy.
"""

from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl import PipelineTask

from pipeline.environment import give_environment


@dataclass(frozen=True)
class Resources:
    """Requests and policies of one task."""

    title: str
    """What the Kubeflow UI calls the task."""
    cpu: str
    memory: str
    timeout_s: int
    retries: int = 2
    """Infrastructure fails now and then; every step resumes or is idempotent, and meets a user error only once."""
    cached: bool = True
    """False for a step that resolves something or acts on the outside world."""
    fetches_much: bool = False
    """Models, indexes or corpora come to this task's pod; a claim keeps them for the next one."""
    has_ranks: bool = False
    """Processes of this task talk to each other through shared memory, and may start work for it elsewhere."""


def _training(title: str, days: int) -> Resources:
    return Resources(title, cpu="2", memory="8Gi", timeout_s=days * 24 * 3600, fetches_much=True, has_ranks=True)


RESOURCES: dict[str, Resources] = {
    "resolve": Resources("Resolve settings", "500m", "512Mi", timeout_s=3600, retries=0, cached=False),
    "corpus": Resources("Corpus", "1", "4Gi", timeout_s=6 * 3600),
    "index": Resources("Search index", "2", "8Gi", timeout_s=12 * 3600, fetches_much=True),
    "questions": Resources("Questions", "1", "2Gi", timeout_s=3600),
    "base-model": Resources("Base model", "2", "4Gi", timeout_s=6 * 3600),
    "train": _training("Train: learn to search", days=7),
    "train-rl-no-search": _training("Baseline: learn without search", days=7),
    "train-sft": _training("Baseline: supervised", days=2),
    "train-rejection-sampling": _training("Baseline: rejection sampling", days=2),
    "evaluate": Resources("Evaluate", "2", "8Gi", timeout_s=24 * 3600, fetches_much=True, has_ranks=True),
    "register": Resources("Register", "500m", "1Gi", timeout_s=3600, cached=False),
    "summary": Resources("Summary", "500m", "512Mi", timeout_s=600, cached=False),
    "notify": Resources("Tell how it ended", "250m", "512Mi", timeout_s=600, retries=0, cached=False),
}
"""Task name -> resources."""

RETRY_BACKOFF_S = 30
GPU = "nvidia.com/gpu"
GPU_TOLERATION = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
"""Clusters keep other pods off their GPU nodes by this taint."""
CACHE_MOUNT = "/cache"
"""Where a claim for downloads is mounted, for the tasks that fetch much."""
CPUS_PER_GPU = 8
MEMORY_PER_GPU_GIB = 96
"""What a node with 8 GPUs of 80 GB usually has a GPU of: float32 weights, optimizer and pages pass through it."""
KEPT_AFTER_END_S = 14 * 24 * 3600
"""A finished run's pods and their logs stay so long; its record in the UI stays for good."""


def place(task: PipelineTask) -> PipelineTask:
    """Return `task` with the resources and policies of its name applied, and with its environment."""
    given = RESOURCES[task.name]
    task.set_display_name(given.title)
    task.set_cpu_request(given.cpu).set_memory_request(given.memory).set_memory_limit(given.memory)
    if given.retries:
        task.set_retry(num_retries=given.retries, backoff_duration=f"{RETRY_BACKOFF_S}s", backoff_factor=2.0)
    task.set_caching_options(given.cached)
    kubernetes.set_timeout(task, given.timeout_s)
    if given.has_ranks:
        # Its size is the memory limit of the task; the container's own 64 MB stop torch and NCCL.
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory")
    return give_environment(task, given.retries, knows_pod=given.has_ranks)


def with_gpus(given: Resources, count: int) -> dict[str, object]:
    """Return the entries of KFP's resource specification for a task with `count` GPUs of its own.

    Cores and memory grow with the GPUs and never fall below what the task has without.
    """
    cpus = max(CPUS_PER_GPU * count, int(given.cpu))
    memory_gib = max(MEMORY_PER_GPU_GIB * count, int(given.memory.removesuffix("Gi")))
    memory_gb = memory_gib * 2**30 / 1e9
    return {
        "accelerator": {"type": GPU, "resourceType": GPU, "count": str(count), "resourceCount": str(count)},
        "cpuRequest": float(cpus),
        "resourceCpuRequest": str(cpus),
        "memoryRequest": memory_gb,
        "resourceMemoryRequest": f"{memory_gib}Gi",
        "memoryLimit": memory_gb,
        "resourceMemoryLimit": f"{memory_gib}Gi",
    }


def cache_mount(claim: str) -> dict[str, object]:
    """Return the entry of KFP's platform specification that mounts `claim` for downloads."""
    return {
        "constant": claim,
        "pvcNameParameter": {"runtimeValue": {"constant": claim}},
        "mountPath": CACHE_MOUNT,
    }
