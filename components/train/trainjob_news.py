"""What is new about a training job, said once: conditions, pods, its place in the queue, warnings of the cluster."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from components.train.trainjob import QUEUE_LABEL
from components.train.trainjob_pods import Pod, attempt_of, name_of, place_of, state_of

Object = dict[str, Any]
_SAID_BY_PODS = {"FailedScheduling", "BackOff", "Failed", "ErrImagePull"}
"""Reasons of events that repeat what the state of a pod says."""


class News:
    """Says every line about a subject when it differs from the last one about it; from any thread."""

    def __init__(self, say: Callable[[str], None] = lambda line: print(line, flush=True)) -> None:
        self._say = say
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def tell_pod(self, pod: Pod) -> None:
        """Say how a pod fares."""
        attempt = f", restart {attempt_of(pod)}" if attempt_of(pod) else ""
        self._tell(f"pod {name_of(pod)}", f"{name_of(pod)} ({place_of(pod)}{attempt}): {state_of(pod)}")

    def tell_job(self, job: Object, workloads: Iterable[Object] = (), warnings: Iterable[Object] = ()) -> None:
        """Say the conditions of a job, its place in the queue, and what the cluster warns of."""
        name = job["metadata"]["name"]
        for kind, text in conditions(job):
            self._tell(f"condition {kind}", f"{name}: {text}")
        queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL, "")
        ours = [workload for workload in workloads if _owns(job, workload)]
        if queue and not ours and job["spec"].get("suspend"):
            self._tell("queue", f"{name}: waits for Kueue, which has not taken notice of it yet")
        for workload in ours:
            self._tell("queue", f"{name}: {queue_state(workload, queue)}")
        for event in warnings:
            about, reason = event["involvedObject"].get("name", ""), event.get("reason", "")
            if (about == name or about.startswith(f"{name}-")) and reason not in _SAID_BY_PODS:
                line = f"{about}: {reason}: {event.get('message', '')}"
                self._tell(f"event {line}", line)

    def _tell(self, subject: str, line: str) -> None:
        with self._lock:
            if self._last.get(subject) != line:
                self._last[subject] = line
                self._say(line)


def _owns(job: Object, workload: Object) -> bool:
    owners = [owner["uid"] for owner in workload["metadata"].get("ownerReferences", [])]
    return job["metadata"].get("uid") in owners


def conditions(job: Object) -> list[tuple[str, str]]:
    """Return (type, what it says) for the conditions of a job, only those that hold or have held."""
    found = []
    for condition in job.get("status", {}).get("conditions", []):
        kind, holds = condition["type"], condition["status"] == "True"
        if holds:
            found.append((kind, f"{kind} ({condition.get('reason', '')}): {condition.get('message', '')}"))
        elif kind == "Suspended":
            found.append((kind, f"no longer suspended ({condition.get('reason', '')})"))
    return found


def queue_state(workload: Object, queue: str) -> str:
    """Return where a job stands in Kueue's queue."""
    held = {c["type"]: c for c in workload.get("status", {}).get("conditions", [])}
    evicted, admitted = held.get("Evicted", {}), held.get("Admitted", {})
    if admitted.get("status") == "True":
        return f"admitted by queue {queue}"
    if evicted.get("status") == "True":
        return f"evicted from queue {queue} ({evicted.get('reason', '')}): {evicted.get('message', '')}"
    reserved = held.get("QuotaReserved", {})
    return f"waits in queue {queue}: {reserved.get('message') or 'for its turn'}"
