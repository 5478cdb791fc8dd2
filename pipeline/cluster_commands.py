"""The commands that talk to a cluster: upload, submit, status, logs, cancel, schedule."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.config import nearest
from components.contracts.errors import ConfigError, MissingError, RunFailed
from pipeline import arguments, parameters
from pipeline.schedules import schedule_as_json, schedules_as_text, trigger_of
from pipeline.source import git_commit

if TYPE_CHECKING:
    from pipeline.cluster import Cluster, Version
    from pipeline.cluster_runs import TaskStatus

PIPELINE = EXPERIMENT = "search-r1"
ONLY_NEW_CORPUS = "p08_only_new_corpus"
"""Parameter that ends a run at its first step when the champion already knows the corpus."""
FAILED_LINES = 50
WAITING_PATIENCE_S = 600.0
"""A server that is away for this long does not end the wait for a run."""

Check = Callable[[argparse.Namespace, str], tuple[dict[str, str | int], dict[str, str]]]
"""(what was given, storage root) -> (fields of the run, settings of every task); raises what the first step would."""


def add_parsers(commands: Any, check: Check) -> None:
    """Add the parsers of all commands of this file."""
    upload = commands.add_parser("upload", help="make a version of the pipeline on the cluster, if it is new")
    upload.set_defaults(command=_upload)
    arguments.add_images(upload)
    upload.add_argument("--file", type=Path, metavar="YAML", help="upload this instead of compiling")
    upload.add_argument("--pipeline", default=PIPELINE, help="name on the server (%(default)s)")
    _add_connection(upload, writes=True)

    submit = commands.add_parser("submit", help="start a run on the cluster")
    submit.set_defaults(command=partial(_submit, check))
    _add_run(submit)
    submit.add_argument("--version", default="latest", help="version to run, as `upload` named it (%(default)s)")
    submit.add_argument("--name", default="", help="name of the run (preset and time)")
    submit.add_argument("--only-new-corpus", action="store_true", help="end at the first step unless the corpus is new")
    submit.add_argument("--wait", action="store_true", help="follow the run; exit code 1 unless it succeeds")
    _add_connection(submit, writes=True)

    status = commands.add_parser("status", help="tell what a run on the cluster is doing")
    status.set_defaults(command=_status)
    status.add_argument("run", nargs="?", default="latest", help="id, name or latest (%(default)s)")
    _add_experiment(status)
    _add_connection(status)

    logs = commands.add_parser("logs", help="print what a step of a run on the cluster says")
    logs.set_defaults(command=_logs)
    logs.add_argument("run", help="id, name or latest")
    logs.add_argument("task", nargs="?", help="step, as `status` names it")
    logs.add_argument("--failed", action="store_true", help=f"the last {FAILED_LINES} lines of every step that failed")
    logs.add_argument("--tail", type=int, metavar="N", help="the last N lines only")
    logs.add_argument("--follow", action="store_true", help="go on until the step ends")
    logs.add_argument("--context", default="", help="of the kubeconfig (its current one)")
    _add_experiment(logs)
    _add_connection(logs)

    cancel = commands.add_parser("cancel", help="end a run on the cluster")
    cancel.set_defaults(command=_cancel)
    cancel.add_argument("run", help="id, name or latest")
    cancel.add_argument("--yes", action="store_true", help="do not ask")
    _add_experiment(cancel)
    _add_connection(cancel, writes=True)
    _add_schedule(commands, check)


def _add_schedule(commands: Any, check: Check) -> None:
    schedule = commands.add_parser(
        "schedule",
        help="run the latest version again and again",
        description="One run at a time, nothing caught up; a run ends at its first step when the corpus is not new.",
    )
    schedule.set_defaults(command=partial(_schedule, check))
    what = schedule.add_mutually_exclusive_group(required=True)
    what.add_argument("--cron", metavar="'S M H D M W'", help="six fields, seconds first: '0 0 2 * * *' is 2:00 daily")
    what.add_argument("--every", metavar="LENGTH", help="such as 6h, 90m or 1d")
    what.add_argument("--list", action="store_true", help="print the schedules there are")
    for change in ("enable", "disable", "delete"):
        what.add_argument(f"--{change}", metavar="NAME", help=f"{change} the schedule of that name")
    schedule.add_argument("--name", default="retraining", help="of the new schedule (%(default)s)")
    schedule.add_argument("--replace", action="store_true", help="take the place of a schedule of the same name")
    _add_run(schedule)
    _add_connection(schedule, writes=True)


def _add_run(parser: argparse.ArgumentParser) -> None:
    arguments.add_fields(parser)
    parser.add_argument("--storage-root", default=parameters.STORAGE_ROOT.default, help=parameters.STORAGE_ROOT.help)
    parser.add_argument("--pipeline", default=PIPELINE, help="name on the server (%(default)s)")
    parser.add_argument("--service-account", default="", metavar="NAME", help="account of the pods (the server's)")
    _add_experiment(parser)


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", default=EXPERIMENT, help="group of runs (%(default)s)")


def _add_connection(parser: argparse.ArgumentParser, writes: bool = False) -> None:
    parser.add_argument("--host", default="", metavar="URL", help="of Kubeflow Pipelines (KF_PIPELINES_ENDPOINT)")
    parser.add_argument("--namespace", default="", help="your profile's, where several teams share the server")
    parser.add_argument("--ca-file", default="", metavar="PEM", help="authority that the server's certificate is from")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    if writes:
        parser.add_argument("--dry-run", action="store_true", help="print the requests that would write; send none")


def _connect(given: argparse.Namespace) -> "Cluster":
    from pipeline.cluster import Cluster

    rehearse = getattr(given, "dry_run", False)
    return Cluster(given.host, namespace=given.namespace, ca_file=given.ca_file, rehearse=rehearse)


def _show(given: argparse.Namespace, cluster: "Cluster", told: Mapping[str, Any], text: str) -> None:
    """Print the outcome, or in a rehearsal the requests."""
    if getattr(given, "dry_run", False):
        requests = [request.as_json() for request in cluster.rehearsed]
        told = {"dry_run": True, "requests": requests}
        shown = (
            f"{one['method']} {one['url']}" + (f"\n{json.dumps(one['body'], indent=1)}" if one["body"] else "")
            for one in requests
        )
        text = "\n\n".join((*shown, "Nothing was sent." if requests else "Nothing to send."))
    print(json.dumps(told, indent=1) if given.json else text, flush=True)


def _upload(given: argparse.Namespace) -> None:
    from pipeline.compiled import compile_pipeline

    if bool(given.file) == bool(given.image):
        raise ConfigError("Neither --image nor --file, or both", "one of them", "name the image of the steps")
    if given.file and not given.file.is_file():
        raise MissingError(f"There is no file {given.file}", remedy="searchr1 compile --image REFERENCE")
    with tempfile.TemporaryDirectory() as folder:
        package = given.file or Path(folder) / "pipeline.yaml"
        if not given.file:
            compile_pipeline(package, **arguments.images_of(given))
        commit = os.environ.get("SEARCHR1_GIT_COMMIT") or git_commit()
        cluster = _connect(given)
        version = cluster.upload(package, given.pipeline, description=f"git commit {commit}")
    told = {
        "pipeline": given.pipeline,
        "pipeline_id": version.pipeline_id,
        "version": version.name,
        "version_id": version.version_id,
        "created": version.created,
    }
    text = f"{'Made' if version.created else 'There already is'} version {version.name} of {given.pipeline}"
    _show(given, cluster, told, text)


def _submit(check: Check, given: argparse.Namespace) -> None:
    fields = _fields(check, given)
    cluster = _connect(given)
    version = cluster.version(given.pipeline, given.version)
    values = _values(version, fields)
    if given.only_new_corpus:
        if ONLY_NEW_CORPUS not in version.parameters:
            raise ConfigError(f"Version {version.name} cannot tell a new corpus", remedy="searchr1 upload a newer one")
        values[ONLY_NEW_CORPUS] = "yes"
    name = given.name or arguments.run_name(given.preset)
    run = cluster.submit(version, values, name, given.experiment, given.service_account)
    if given.dry_run:
        return _show(given, cluster, {}, "")
    link = cluster.link(run.run_id)
    told = {"run_id": run.run_id, "name": name, "version": version.name, "parameters": values, "link": link}
    if not given.wait:
        return _show(given, cluster, told, f"Run {run.run_id} ({name}, version {version.name})\n{link}")
    print(f"Run {run.run_id} ({name}, version {version.name})\n{link}", file=sys.stderr, flush=True)
    _wait(given, cluster, run.run_id, told)
    return None


def _wait(given: argparse.Namespace, cluster: "Cluster", run_id: str, told: dict[str, Any]) -> None:
    from pipeline.cluster_runs import duration_text, run_as_json, tasks_of, wait

    cluster.patience(WAITING_PATIENCE_S)
    spec = cluster.spec_of(cluster.get_run(run_id))

    def look() -> tuple[Any, "list[TaskStatus]"]:
        run = cluster.get_run(run_id)
        return run, tasks_of(run, spec)

    try:
        run, tasks = wait(look)
    except KeyboardInterrupt:
        print(f"\nThe run goes on: searchr1 status {run_id}; searchr1 cancel {run_id}", file=sys.stderr)
        raise SystemExit(130) from None
    told |= run_as_json(run, tasks, told["link"])
    _show(given, cluster, told, f"{run.state} after {duration_text(told['duration_s'])}")
    if run.state != "SUCCEEDED":
        failed = ", ".join(task.name for task in tasks if task.state == "FAILED")
        where = f" at {failed}; searchr1 logs {run_id} --failed tells why" if failed else ""
        raise RunFailed(f"Run {run_id} ended {run.state}{where}")


def _status(given: argparse.Namespace) -> None:
    from pipeline.cluster_runs import run_as_json, run_as_text, tasks_of

    cluster = _connect(given)
    run = cluster.run(given.run, given.experiment)
    told = run_as_json(run, tasks_of(run, cluster.spec_of(run)), cluster.link(run.run_id))
    _show(given, cluster, told, run_as_text(told))


def _logs(given: argparse.Namespace) -> None:
    from pipeline.cluster_logs import Pods
    from pipeline.cluster_runs import tasks_of

    cluster = _connect(given)
    run = cluster.run(given.run, given.experiment)
    tasks = {task.name: task for task in tasks_of(run, cluster.spec_of(run))}
    asked = [name for name, task in tasks.items() if task.state == "FAILED"] if given.failed else [given.task]
    if not given.failed and given.task not in tasks:
        wrong = f"There is no task {given.task!r}{nearest(given.task, list(tasks))}" if given.task else "No task named"
        raise ConfigError(wrong, ", ".join(tasks), "name one of them, or give --failed")
    tail = given.tail or (FAILED_LINES if given.failed else None)
    if not asked:
        return _show_logs(given, run.run_id, [])
    pods = Pods(cluster.pod_namespace, given.context)
    of_run = pods.of_run(run.run_id)
    told = []
    for name in asked:
        # The last attempt counts: the log of an earlier one tells why there was another.
        pod = next((pod for pod in reversed(of_run) if pod.step == name), None)
        if pod is None and not given.failed:
            raise MissingError(
                f"Step {name} has no pod: it is {tasks[name].state}",
                remedy="a cached step has none; the logs of deleted pods may be in the web interface, as executor-logs",
            )
        lines = pods.lines(pod, tail, given.follow) if pod and pod.phase != "Pending" else ()
        error = (pod.reason if pod else "") or tasks[name].error
        told.append({"task": name, "pod": pod and pod.name, "error": error, "lines": lines})
    return _show_logs(given, run.run_id, told)


def _show_logs(given: argparse.Namespace, run_id: str, told: list[dict[str, Any]]) -> None:
    if given.json:
        logs = [{**one, "lines": list(one["lines"])} for one in told]
        print(json.dumps({"run_id": run_id, "logs": logs}, indent=1))
        return
    if not told:
        print(f"No step of run {run_id} failed")
    for one in told:
        head = f"== {one['task']}{': ' + one['error'] if one['error'] else ''}"
        if given.failed or one["error"]:
            print(head, file=sys.stdout if given.failed else sys.stderr, flush=True)
        for line in one["lines"]:
            print(line, flush=given.follow)


def _cancel(given: argparse.Namespace) -> None:
    from pipeline.cluster_runs import FINAL_STATES

    cluster = _connect(given)
    run = cluster.run(given.run, given.experiment)
    told = {"run_id": run.run_id, "name": run.display_name, "state": run.state, "cancelled": False}
    if run.state in FINAL_STATES or run.state == "CANCELING":
        return _show(given, cluster, told, f"Run {run.run_id} ({run.display_name}) is {run.state} already")
    if not (given.yes or given.dry_run):
        _confirm(f"End run {run.run_id} ({run.display_name}, {run.state})? Finished steps and checkpoints stay.")
    cluster.cancel(run.run_id)
    text = f"Run {run.run_id} ({run.display_name}) is being ended; finished steps and checkpoints stay"
    return _show(given, cluster, told | {"cancelled": True}, text)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("Nobody is here to be asked", remedy="--yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise SystemExit("Nothing was changed")


def _schedule(check: Check, given: argparse.Namespace) -> None:
    changes = [name for name in ("enable", "disable", "delete") if getattr(given, name)]
    trigger = trigger_of(given.cron, given.every) if given.cron or given.every else None
    fields = _fields(check, given) if trigger else {}
    cluster = _connect(given)
    if given.list:
        told = [schedule_as_json(one) for one in cluster.schedules()]
        return _show(given, cluster, {"schedules": told}, schedules_as_text(told))
    if changes:
        return _change_schedule(given, cluster, changes[0], getattr(given, changes[0]))
    there = cluster.schedules(given.name)
    if there and not given.replace:
        raise ConfigError(f"There is a schedule {given.name!r}", remedy="--replace, or another --name")
    version = cluster.version(given.pipeline)
    values = _values(version, fields)
    if ONLY_NEW_CORPUS in version.parameters:
        values[ONLY_NEW_CORPUS] = "yes"
    else:
        print(f"Version {version.name} trains every time, whether or not the corpus is new", file=sys.stderr)
    made = cluster.schedule(given.name, version.pipeline_id, trigger, values, given.experiment, given.service_account)
    # The old ones go last: when the new one is refused, they are still there.
    for old in there:
        cluster.change_schedule(old.recurring_run_id, "delete")
    told = {**schedule_as_json(made), "parameters": values, "replaced": [old.recurring_run_id for old in there]}
    when = trigger.get("cron") or f"every {given.every}"
    text = f"Schedule {given.name} ({when}) runs the latest version of {given.pipeline}"
    return _show(given, cluster, told, text + (f"; replaced {len(there)}" if there else ""))


def _change_schedule(given: argparse.Namespace, cluster: "Cluster", change: str, name: str) -> None:
    found = cluster.schedules(name)
    if not found:
        names = [one.display_name for one in cluster.schedules()]
        raise MissingError(f"There is no schedule {name!r}{nearest(name, names)}", ", ".join(names) or "none")
    for one in found:
        cluster.change_schedule(one.recurring_run_id, change)
    told = {"name": name, "change": change, "schedule_ids": [one.recurring_run_id for one in found]}
    _show(given, cluster, told, f"Schedule {name} is {change.removesuffix('e')}ed")


def _fields(check: Check, given: argparse.Namespace) -> dict[str, str | int]:
    """Return the fields of the run once the resolve step would take them, on a machine that is not this one."""
    if os.sep in given.preset or given.preset.endswith(".toml"):
        raise ConfigError(
            f"Preset {given.preset} is a file of this machine, which no step on the cluster can read",
            ", ".join(parameters.PRESET.choices),
            "name a bundled preset and change it with --set",
        )
    return check(given, given.storage_root)[0]


def _values(version: "Version", fields: Mapping[str, str | int]) -> dict[str, str | int]:
    """Return the parameters that `version` has, and refuse to drop one that was set."""
    named = parameters.named(fields)
    known = version.parameters or set(named)
    defaults = {parameter.name: parameter.default for parameter in parameters.PARAMETERS}
    dropped = [name for name, value in named.items() if name not in known and value != defaults[name]]
    if dropped:
        raise ConfigError(f"Version {version.name} has no parameter {dropped[0]}", remedy="searchr1 upload a newer one")
    return {name: value for name, value in named.items() if name in known}
