"""The process that runs the DAG with kfp.local: `python -m pipeline.local_worker <request.json>`.

kfp.local keeps process-wide state and replaces `sys.stdout`, so each run gets a process of its own,
started and watched by `pipeline.local`. Retries of the cluster do not apply here: a person is watching.
"""

import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.processes import adopt_orphans, die_with_parent, stop_descendants

if TYPE_CHECKING:
    from kfp.dsl.base_component import BaseComponent

STOP_GRACE_S = 20.0


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

    for task in pipeline.pipeline_spec.root.dag.tasks.values():
        task.ClearField("retry_policy")
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


def _stop(number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_descendants(STOP_GRACE_S)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
