"""The process that runs the DAG with kfp.local: `python -m pipeline.local_worker <request.json>`.

kfp.local keeps process-wide state and replaces `sys.stdout`, so each run gets a process of its own,
started and watched by `pipeline.local`. Retries of the cluster do not apply here: a person is watching.
"""

import itertools
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.processes import adopt_orphans, die_with_parent, stop_descendants

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent
    from kfp.pipeline_spec.pipeline_spec_pb2 import DagSpec, PipelineSpec, PipelineTaskSpec

STOP_GRACE_S = 600.0
"""What a training has for the save it makes before it stops: weights and moments of 7 B are 85 GB. As in a TrainJob."""


def main() -> None:
    """Run the DAG as the request file says; the exit code is 1 when a task failed."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    watch_parent(request["parent_pid"])
    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner.*")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from pipeline.dag import search_r1

    run_pipeline(search_r1, request)


def watch_parent(parent_pid: int) -> None:
    """From now on stop everything below this process when it is told to stop or its parent ends."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    die_with_parent(parent_pid)


def run_pipeline(pipeline: "BaseComponent", request: dict[str, Any]) -> None:
    """Run a pipeline with kfp.local where the request says.

    Raises:
        SystemExit: a task failed.
    """
    from kfp import local

    make_stop_at_failure(pipeline.pipeline_spec)
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=request["pipeline_root"],
        enable_caching=request["cached"],
        cache_root=request["cache_root"],
    )
    try:
        pipeline(**request["parameters"])
    except RuntimeError as error:
        print(error, flush=True)
        raise SystemExit(1) from None


def make_stop_at_failure(spec: "PipelineSpec") -> None:
    """Change a pipeline so that kfp.local ends it with the first failure of a task, but for its exit handler."""
    for dag in _dags(spec):
        for task in dag.tasks.values():
            task.ClearField("retry_policy")
        _one_after_the_other(dag)


def _dags(spec: "PipelineSpec") -> Iterator["DagSpec"]:
    """Yield the pipeline's own graph and those nested in it."""
    yield spec.root.dag
    yield from (part.dag for part in spec.components.values() if part.WhichOneof("implementation") == "dag")


def _one_after_the_other(dag: "DagSpec") -> None:
    """Let every task wait for the one before it: kfp.local would go on with what a failed task has no part in.

    The order is that of the edges, and of the names where they leave a choice. The exit handler is left as it is.
    """
    tasks = {name: task for name, task in sorted(dag.tasks.items()) if not _is_exit_handler(task)}
    order = list(TopologicalSorter({name: sorted(task.dependent_tasks) for name, task in tasks.items()}).static_order())
    for before, after in itertools.pairwise(order):
        if before not in tasks[after].dependent_tasks:
            tasks[after].dependent_tasks.append(before)


def _is_exit_handler(task: "PipelineTaskSpec") -> bool:
    return any(given.HasField("task_final_status") for given in task.inputs.parameters.values())


def _stop(number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_descendants(STOP_GRACE_S)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
