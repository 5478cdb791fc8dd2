"""What a run on a cluster is doing, read from the server's record of it: states, tasks, progress.

The server tells about nodes of its workflow engine: for a task `train` there is a node `train-driver` that decides,
a node `train`, and below that one `executor` per attempt, skipped when the cache had the answer.
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
"""Name of the node that runs a task's program, with its number when it is tried again."""
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
    """An earlier run's results were taken."""
    error: str = ""

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
    by_id = {identity: node for node in nodes for identity in (node.task_id, node.pod_name) if identity}
    by_name = {node.display_name: node for node in nodes}
    names = step_names(spec) or [name for name in by_name if name and _looks_like_a_step(name, run)]
    tasks = [_task(name, by_name.get(name), by_id) for name in names]
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


def _looks_like_a_step(name: str, run: Any) -> bool:
    is_workflow = any(node.display_name == name and node.pod_name == name for node in run.run_details.task_details)
    return not (is_workflow or name == "root" or name.endswith("-driver") or EXECUTOR.fullmatch(name))


def _task(name: str, node: Any, by_id: Mapping[str, Any]) -> TaskStatus:
    if node is None:
        return TaskStatus(name, NOT_STARTED)
    attempts = list(_attempts(node, by_id))
    started, ended = _moment(node.start_time), _moment(node.end_time)
    last = ended or datetime.now(UTC)
    failed = [one.error.message for one in (*attempts, node) if one.error and one.error.message]
    return TaskStatus(
        name,
        node.state or NOT_STARTED,
        started,
        (last - started).total_seconds() if started else None,
        node.state == "SUCCEEDED" and any(attempt.state == "SKIPPED" for attempt in attempts),
        printable(failed[-1]) if failed and node.state != "SUCCEEDED" else "",
    )


def _attempts(node: Any, by_id: Mapping[str, Any]) -> Iterator[Any]:
    # Nodes that merely come after this one are among its children too.
    for child in node.child_tasks or []:
        found = by_id.get(child.task_id) or by_id.get(child.pod_name)
        if found is not None and EXECUTOR.fullmatch(found.display_name or ""):
            yield found
            yield from _attempts(found, by_id)


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
