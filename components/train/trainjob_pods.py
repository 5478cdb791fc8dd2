"""What the pods of a training job tell: how each of them fares, which failed and why, how long they held their GPUs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from components.train.trainjob import GPU

Pod = dict[str, Any]
STUCK = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
}
"""Reasons of a waiting container that waiting seldom mends."""
_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_PART_LABEL, _NODE = "jobset.sigs.k8s.io/replicatedjob-name", "node"
_ATTEMPT_LABEL = "jobset.sigs.k8s.io/restart-attempt"
_TERMINATED = 143


@dataclass(frozen=True, slots=True)
class PodFailure:
    """How a pod ended that should not have."""

    pod: str
    place: str
    """Its part in the job: `node 0` holds the first rank."""
    attempt: int
    """How often the job had been restarted before."""
    reason: str
    """`OOMKilled`, `Evicted`, `Error` and so on."""
    exit_code: int | None
    """None where no container ran to an end: evicted, or lost with its machine."""
    finished: str

    @property
    def was_killed(self) -> bool:
        """Whether the cluster ended it: `Error` is the reason of a program that ended by itself."""
        return self.reason != "Error" or self.exit_code in (None, 137)

    def __str__(self) -> str:
        code = "no exit code" if self.exit_code is None else f"exit code {self.exit_code}"
        return f"pod {self.pod} ({self.place}): {self.reason}, {code}"


def name_of(pod: Pod) -> str:
    """Return the pod's name."""
    return pod["metadata"]["name"]


def part_of(pod: Pod) -> str:
    """Return which replicated job of the runtime the pod belongs to, which is the name of its container too."""
    return _labels(pod).get(_PART_LABEL, _NODE)


def is_node(pod: Pod) -> bool:
    """Return whether ranks run in the pod; a retriever of the job's own has none."""
    return part_of(pod) == _NODE


def place_of(pod: Pod) -> str:
    """Return the part of the pod in its job, for people: `node 0` holds the first rank."""
    return f"{part_of(pod)} {_labels(pod).get(_INDEX_LABEL, 0)}"


def attempt_of(pod: Pod) -> int:
    """Return how often the job had been restarted before this pod."""
    return int(_labels(pod).get(_ATTEMPT_LABEL, 0))


def first_rank(pods: Iterable[Pod]) -> Pod | None:
    """Return the newest pod that holds the first rank and has started, if there is one."""
    started = [pod for pod in pods if pod["status"].get("phase") in ("Running", "Succeeded", "Failed")]
    found = [pod for pod in started if place_of(pod) == f"{_NODE} 0"]
    return max(found, key=lambda pod: (attempt_of(pod), pod["metadata"].get("creationTimestamp", "")), default=None)


def state_of(pod: Pod) -> str:
    """Return how the pod fares, in a few words: its phase, and what keeps it or ended it."""
    phase = pod["status"].get("phase", "Unknown")
    if (failed := failure_of(pod)) is not None:
        return f"Failed: {failed.reason}, " + str(failed).rpartition(", ")[2]
    for condition in pod["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{phase}: {condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"
    for waiting in _container_states(pod, "waiting"):
        if waiting.get("reason"):
            return f"{phase}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return phase


def stuck_reason(pod: Pod) -> str:
    """Return why the pod cannot get its image or configuration, empty where it can."""
    waiting = next((state for state in _container_states(pod, "waiting") if state.get("reason") in STUCK), None)
    return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ") if waiting else ""


def failure_of(pod: Pod) -> PodFailure | None:
    """Return how the pod failed, None where it did not."""
    ended = next((state for state in _container_states(pod, "terminated") if state.get("exitCode")), {})
    # A retriever that ends is started again in its pod; a node is not.
    if pod["status"].get("phase") != "Failed" and not (ended and is_node(pod)):
        return None
    disrupted = next((c for c in pod["status"].get("conditions", []) if c["type"] == "DisruptionTarget"), {})
    reason = disrupted.get("reason") or pod["status"].get("reason") or ended.get("reason") or "Error"
    if ended.get("reason") == "OOMKilled":
        reason = "OOMKilled"
    finished = ended.get("finishedAt") or ""
    return PodFailure(name_of(pod), place_of(pod), attempt_of(pod), reason, ended.get("exitCode"), finished)


def first_failure(failures: Iterable[PodFailure]) -> PodFailure | None:
    """Return the failure of the last attempt that the others follow from.

    A pod that was killed takes the others with it. A rank that was told to end (143) did so because of another one.
    Of the rest the first to end is the cause.
    """
    failures = list(failures)
    last = max((failure.attempt for failure in failures), default=0)
    latest = [failure for failure in failures if failure.attempt == last]
    # A time that is not known is later than all that are.
    return min(
        latest,
        key=lambda f: (not f.was_killed, f.exit_code == _TERMINATED, f.finished or "9", f.place),
        default=None,
    )


@dataclass(slots=True)
class GpuClock:
    """How long the pods held their GPUs, all attempts together: a pod counts from its start to its end."""

    _gpu_s: dict[str, float] = field(default_factory=dict)

    def note(self, pods: Iterable[Pod]) -> None:
        """Take the pods as they are now; of one that has gone since, the last look counts."""
        for pod in pods:
            if started := pod["status"].get("startTime"):
                end = _end_of(pod) or datetime.now(UTC)
                self._gpu_s[pod["metadata"]["uid"]] = max(0.0, (end - _time(started)).total_seconds()) * _gpus(pod)

    def gpu_s(self) -> float:
        """Return seconds times GPUs."""
        return sum(self._gpu_s.values())


def _end_of(pod: Pod) -> datetime | None:
    """Return when the last container of the pod ended, None while one is at work or no time is known."""
    at_work = any("terminated" not in status.get("state", {}) for status in pod["status"].get("containerStatuses", []))
    if at_work and pod["status"].get("phase") not in ("Succeeded", "Failed"):
        return None
    ends = [state["finishedAt"] for state in _container_states(pod, "terminated") if state.get("finishedAt")]
    return _time(max(ends)) if ends else None


def _gpus(pod: Pod) -> int:
    limits = [container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"]]
    return sum(int(limit.get(GPU, 0)) for limit in limits)


def _labels(pod: Pod) -> dict[str, str]:
    return pod["metadata"].get("labels", {})


def _container_states(pod: Pod, state: str) -> list[dict[str, Any]]:
    statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
    return [status["state"][state] for status in statuses if state in status.get("state", {})]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
