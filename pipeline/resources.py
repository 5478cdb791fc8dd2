"""What each step may use and how it is treated: cpu, memory, retries, deadline, cache policy.

The requests fit the bundled small world; kfp.local ignores all of it but the cache policy.
"""

from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl import PipelineTask

from pipeline.environment import give_environment


@dataclass(frozen=True)
class Resources:
    """Requests and policies of one task."""

    cpu: str
    memory: str
    timeout_s: int
    retries: int = 2
    """Infrastructure fails now and then; every step resumes or is idempotent."""
    cached: bool = True
    """False for a step that resolves something or acts on the outside world."""


RESOURCES: dict[str, Resources] = {
    "resolve": Resources(cpu="500m", memory="512Mi", timeout_s=600, cached=False),
    "corpus": Resources(cpu="1", memory="4Gi", timeout_s=6 * 3600),
    "index": Resources(cpu="2", memory="8Gi", timeout_s=12 * 3600),
    "questions": Resources(cpu="1", memory="2Gi", timeout_s=3600),
    "base-model": Resources(cpu="2", memory="4Gi", timeout_s=6 * 3600),
    "train": Resources(cpu="2", memory="8Gi", timeout_s=7 * 24 * 3600),
    "train-rl-no-search": Resources(cpu="2", memory="8Gi", timeout_s=7 * 24 * 3600),
    "train-sft": Resources(cpu="2", memory="8Gi", timeout_s=2 * 24 * 3600),
    "train-rejection-sampling": Resources(cpu="2", memory="8Gi", timeout_s=2 * 24 * 3600),
    "evaluate": Resources(cpu="2", memory="8Gi", timeout_s=24 * 3600),
    "register": Resources(cpu="500m", memory="1Gi", timeout_s=3600, cached=False),
    "summary": Resources(cpu="500m", memory="512Mi", timeout_s=600, cached=False),
}
"""Task name -> resources."""

RETRY_BACKOFF_S = 30


def place(task: PipelineTask) -> PipelineTask:
    """Return `task` with the resources and policies of its name applied, and with its environment."""
    given = RESOURCES[task.name]
    task.set_cpu_request(given.cpu).set_memory_request(given.memory).set_memory_limit(given.memory)
    task.set_retry(num_retries=given.retries, backoff_duration=f"{RETRY_BACKOFF_S}s", backoff_factor=2.0)
    task.set_caching_options(given.cached)
    kubernetes.set_timeout(task, given.timeout_s)
    return give_environment(task)
