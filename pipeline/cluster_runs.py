"""What a run on a cluster is doing, read from the server's record of it: states, tasks, progress.

The server tells about nodes of its workflow engine: for a task `train` there is a node `train-driver` that decides,
a node `train`, and below that `executor`, with one more per attempt. It does not tell which executor is whose, nor why
something failed: its records leave the names of pods and the errors out, though the API has fields for both.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.cluster import FINAL_STATES
from pipeline.cluster_wire import printable
from pipeline.result_view import aligned

EXECUTOR = re.compile(r"executor(\(\d+\))?")
"""Name of the node that runs a task's program, and of each of its attempts."""
NOT_STARTED = "NOT_STARTED"
POLL_S, HEARTBEAT_S = 10.0, 300.0


@dataclass(frozen=True)
class TaskStatus:
    """One step of the run."""

    name: str
    state: str
    """As the server calls it, or NOT_STARTED."""
    started_at: datetime | None = None
    duration_s: float | None = None
    """So far, for a task that runs."""
    cached: bool = False
    """An earlier run's results were taken, as far as times tell."""
    error: str = ""
    """Empty when the server gives no reason."""

    def as_json(self) -> dict[str, Any]:
        """Return name, state, duration_s, cached and error."""
        duration_s = None if self.duration_s is None else round(self.duration_s, 1)
        fields = {"name": self.name, "state": self.state, "duration_s": duration_s}
        return {**fields, "cached": self.cached, "error": self.error}


def tasks_of(run: Any, spec: Mapping[str, Any]) -> list[TaskStatus]:
    """Return the steps of `run` in the order they started, those still to come last, by name.

    `spec` names the steps; without it they are told apart by the names of the nodes.
    """
    nodes = run.run_details.task_details or [] if run.run_details else []
    by_name = {node.display_name: node for node in nodes}
    names = step_names(spec) or [name for name in by_name if name and _looks_like_a_step(name, nodes)]
    cached = _cached([by_name[name] for name in names if name in by_name], nodes)
    tasks = [_task(name, by_name.get(name), name in cached) for name in names]
    never = datetime.max.replace(tzinfo=UTC)
    return sorted(tasks, key=lambda task: (task.started_at or never, task.name))


def step_names(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of all steps of a compiled pipeline, those of groups inside it included."""
    return list(_steps(spec.get("root", {}), spec.get("components", {})))


def _steps(component: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    for name, task in component.get("dag", {}).get("tasks", {}).items():
        inner = components.get(task.get("componentRef", {}).get("name"), {})
        if "dag" in inner:
            yield from _steps(inner, components)
        else:
            yield name


def _looks_like_a_step(name: str, nodes: list[Any]) -> bool:
    pods = [child.pod_name or "" for node in nodes for child in node.child_tasks or []]
    is_workflow = any(pod.startswith(f"{name}-") for pod in pods)
    return not (is_workflow or name == "root" or name.endswith("-driver") or EXECUTOR.fullmatch(name))


def _cached(steps: list[Any], nodes: list[Any]) -> set[str]:
    """Return the names of those `steps` whose result came from the cache.

    Each skipped executor belongs to one step that was under way then; of several to the one that took the least time,
    since a step whose program runs takes longer than one whose program does not.
    """
    left = {
        node.display_name: node for node in steps if node.state == "SUCCEEDED" and node.start_time and node.end_time
    }
    cached = set()
    for executor in nodes:
        if (
            executor.state != "SKIPPED"
            or not executor.start_time
            or not EXECUTOR.fullmatch(executor.display_name or "")
        ):
            continue
        near = [name for name, node in left.items() if node.start_time <= executor.start_time <= node.end_time]
        if near:
            shortest = min(near, key=lambda name: left[name].end_time - left[name].start_time)
            cached.add(shortest)
            del left[shortest]
    return cached


def _task(name: str, node: Any, cached: bool) -> TaskStatus:
    if node is None:
        return TaskStatus(name, NOT_STARTED)
    started, ended = _moment(node.start_time), _moment(node.end_time)
    duration_s = ((ended or datetime.now(UTC)) - started).total_seconds() if started else None
    error = printable(node.error.message) if node.error and node.error.message else ""
    return TaskStatus(name, node.state or NOT_STARTED, started, duration_s, cached, error)


def _moment(value: datetime | None) -> datetime | None:
    """Return the time, or None for what the server writes when there is none: the start of 1970 or of year 1."""
    return value if value and value.year > 1970 else None


def run_as_json(run: Any, tasks: list[TaskStatus], link: str) -> dict[str, Any]:
    """Return what `status --json` prints."""
    created, finished = _moment(run.created_at), _moment(run.finished_at)
    last = finished or datetime.now(UTC)
    return {
        "run_id": run.run_id,
        "name": run.display_name,
        "state": run.state or NOT_STARTED,
        "created_at": created and created.isoformat(),
        "finished_at": finished and finished.isoformat(),
        "duration_s": created and round((last - created).total_seconds(), 1),
        "error": printable(run.error.message) if run.error and run.error.message else "",
        "link": link,
        "tasks": [task.as_json() for task in tasks],
    }


def run_as_text(told: Mapping[str, Any]) -> str:
    """Return the same for people."""
    rows = [["task", "state", "time", ""]]
    for task in told["tasks"]:
        note = "cached" if task["cached"] else task["error"].splitlines()[0] if task["error"] else ""
        rows.append([task["name"], task["state"], duration_text(task["duration_s"]), note[:100]])
    head = f"{told['name']}  {told['state']}  {duration_text(told['duration_s'])}\n{told['run_id']}\n{told['link']}"
    error = f"\n{told['error']}" if told["error"] else ""
    return f"{head}{error}\n\n{aligned(rows)}"


def duration_text(duration_s: float | None) -> str:
    """Return a length of time in its two largest units."""
    if duration_s is None:
        return "-"
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def wait(look: Callable[[], tuple[Any, list[TaskStatus]]], poll_s: float = POLL_S) -> tuple[Any, list[TaskStatus]]:
    """Return the run and its tasks once it has ended; meanwhile print every change of a task to stderr.

    `look` returns both as they are now. A cancelled run has ended, too: the SDK's own wait never notices that.
    """
    seen: dict[str, str] = {}
    told_s = time.monotonic()
    while True:
        run, tasks = look()
        news = [task for task in tasks if task.state not in (seen.get(task.name), NOT_STARTED)]
        for task in news:
            after = f" after {duration_text(task.duration_s)}" if task.state in FINAL_STATES else ""
            _tell(f"{task.name}: {'cached' if task.cached else task.state}{after}")
        seen |= {task.name: task.state for task in tasks}
        if run.state in FINAL_STATES:
            return run, tasks
        if news:
            told_s = time.monotonic()
        elif time.monotonic() - told_s >= HEARTBEAT_S:
            told_s = time.monotonic()
            active = ", ".join(task.name for task in tasks if task.state == "RUNNING")
            _tell(f"still {run.state}: {active or 'no task runs'}")
        time.sleep(poll_s)


def _tell(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)
