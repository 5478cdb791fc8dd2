"""The `searchr1` command: run the pipeline here or on a cluster, ask where a result came from, inspect data.

Exit codes: 0 done, 1 a step failed, 2 the request cannot be met as it is, 75 infrastructure failed,
130 and 143 stopped by a signal.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.errors import SearchR1Error
from pipeline import arguments, cluster_commands, parameters
from pipeline.source import git_commit

if TYPE_CHECKING:
    from pipeline.local import RunFolder
    from pipeline.log_view import TaskRecord


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = _parser().parse_args(words)
    try:
        given.command(given)
    except SearchR1Error as error:
        print(f"\n{error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="searchr1", description="Teach a language model to search.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    for add_parser, command in LOCAL_COMMANDS:
        add_parser(commands).set_defaults(command=command)
    cluster_commands.add_parsers(commands, check=_checked)
    return parser


def _checked(given: argparse.Namespace, storage_root: str) -> tuple[dict[str, str | int], dict[str, str]]:
    """Return the fields of the run that is asked for, and what they resolve to.

    The first step of the run would find the same mistakes; here they cost nothing and leave no trace.
    """
    from components.resolve.main import resolve

    fields = arguments.fields_of(given, storage_root)
    return fields, resolve(**fields)


def _run(given: argparse.Namespace) -> None:
    from pipeline.local import RunFolder, StopSignals, locked, point_latest, run_dag

    root = given.runs_dir.resolve()
    fields, settings = _checked(given, given.storage_root or f"file://{root}")
    fields["only_new_corpus"] = "yes" if given.only_new_corpus else "no"
    if given.print_config:
        print(json.dumps({task: json.loads(text)["config"] for task, text in settings.items()}, indent=1))
        return
    started_s = time.monotonic()
    with StopSignals() as stop, locked(root) as lock:
        folder = RunFolder(root, arguments.run_name(given.preset))
        print(f"Run {folder.run_id} in {root}", flush=True)
        with _tracked(folder, fields) as environment:
            named = parameters.named(fields)
            records = run_dag(named, folder, environment, lock, stop, cached=not given.no_cache)
            if reason := _reason_for_nothing(fields["storage_root"], folder):
                print(f"\nNothing new: {reason}\nLog      {folder.log}", flush=True)
                return
            # Only what is stored counts: a runner has been known to call a failed task a success.
            summary = _bring_home(fields["storage_root"], folder)
        latest = point_latest(folder)
    _show_result(summary, records, folder, latest, environment, time.monotonic() - started_s)


def _reason_for_nothing(storage_root: str, folder: "RunFolder") -> str:
    """Return why the first step ended the run, an empty text when it went on; `latest` stays with the last results.

    Raises:
        MissingError: the first step left no decision.
    """
    from components.storage import open_storage

    stored = open_storage(f"{storage_root.rstrip('/')}/{folder.run_id}")
    resolved = json.loads(stored.get_bytes("resolved.json"))
    return resolved["reason"] if resolved["decision"] == "known" else ""


def _bring_home(storage_root: str, folder: "RunFolder") -> dict[str, Any]:
    """Return the stored summary of the run, after copying it and the report to the folder of runs if need be.

    Raises:
        MissingError: the run stored none.
    """
    from components.storage import open_storage

    stored = open_storage(f"{storage_root.rstrip('/')}/{folder.run_id}")
    if stored.uri().rstrip("/") != f"file://{folder.results}":
        for name in ("report.html", "summary.json"):
            stored.get_file(name, folder.results / name)
    return json.loads(stored.get_bytes("summary.json"))


@contextmanager
def _tracked(folder: "RunFolder", fields: dict[str, str | int]) -> Iterator[dict[str, str]]:
    """Hold the run in MLflow that the steps' runs are children of; yields the environment that tells them.

    Raises:
        TrackingError: the tracking server cannot be reached.
    """
    from components.tracking import open_tracker

    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    uri = os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder.root / 'mlflow.db'}")
    commit = git_commit()
    tracker = open_tracker(folder.run_id, folder.kfp, tags={"git_commit": commit}, params=dict(fields))
    status = "FAILED"
    try:
        yield {
            "MLFLOW_TRACKING_URI": uri,
            "SEARCHR1_MLFLOW_PARENT_RUN_ID": tracker.run_id,
            "SEARCHR1_RUN_ID": folder.run_id,
            "SEARCHR1_GIT_COMMIT": commit,
        }
        status = "FINISHED"
    finally:
        tracker.close(status)


def _show_result(
    summary: dict[str, Any],
    records: "list[TaskRecord]",
    folder: "RunFolder",
    latest: Path,
    environment: dict[str, str],
    wall_s: float,
) -> None:
    from pipeline.result_view import score_table, task_table

    registry = summary["registry"]
    version = f"{registry['name']} version {registry['version']}" if registry["version"] else registry["name"]
    alias = f" (@{registry['alias']})" if registry["alias"] else ""
    print(f"\n{score_table(summary['em'])}\n\n{task_table(records, summary['timings_s'])}")
    print(f"\nAll of it took {wall_s:.0f} s.")
    print(f"Registry {version}{alias}: {'; '.join((registry['decision'], *registry['reasons']))}")
    print(f"Report   {folder.results / 'report.html'}")
    print(f"Summary  {folder.results / 'summary.json'} (also {latest})")
    print(f"Log      {folder.log}")
    print(f"MLflow   mlflow ui --backend-store-uri {environment['MLFLOW_TRACKING_URI']}", flush=True)


def _plan(given: argparse.Namespace) -> None:
    from components.contracts.config import parse_overrides
    from components.resolve.main import resolve
    from components.train.plan import choose_gpu, preflight

    text, refused = preflight(
        given.preset,
        resolve(preset=given.preset, overrides="\n".join(given.set)),
        choose_gpu(given.gpu, given.gpu_memory_gib, given.tflops, given.bandwidth),
        model_config=given.model_config,
        expected=parse_overrides("\n".join(given.expect)),
        as_json=given.json,
    )
    print(text, flush=True)
    if refused:
        raise refused


def _compile(given: argparse.Namespace) -> None:
    from pipeline.compiled import compile_pipeline

    compile_pipeline(given.output, **arguments.images_of(given))
    print(f"Wrote {given.output}")
    if not given.image:
        print("Its steps name no image of this project yet; to run it on a cluster: searchr1 compile --image REFERENCE")


def _lineage(given: argparse.Namespace) -> None:
    from components.contracts.manifest import Manifest
    from components.storage import lineage, open_storage, render_lineage

    path = Path(given.what)
    if path.suffix == ".json":
        manifest = Manifest.read(path)
        root = manifest.uri.partition("/store/")[0]
    else:
        root = f"file://{given.runs_dir.resolve()}"
        links = json.loads(open_storage(root).get_bytes(f"{given.what}/summary.json"))["lineage"]
        manifest = Manifest.from_json(open_storage(links["registration"]["uri"]).get_bytes("manifest.json").decode())
    print(render_lineage(lineage(manifest, root)))


def _report(given: argparse.Namespace) -> None:
    from components.evaluate.main import report

    page = report(given.what, given.runs_dir)
    is_run = not given.what.endswith(".json")
    output = given.output or (given.runs_dir / given.what / "report.html" if is_run else Path("report.html"))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    print(f"Report   {output}")


def _evaluate(given: argparse.Namespace) -> None:
    from components.base_model.main import step as base_model
    from components.corpus.main import step as corpus
    from components.evaluate.main import OUTPUTS, Request, evaluate_request
    from components.evaluate.main import step as evaluate
    from components.index.main import step as index
    from components.questions.main import step as questions
    from components.resolve.main import resolve
    from pipeline.result_view import score_table

    os.environ.setdefault("SEARCHR1_GIT_COMMIT", git_commit())
    limits = {"max_questions_per_set": given.max_questions_per_set, "ranks": given.ranks}
    overrides = [f"evaluate.{name}={value}" for name, value in limits.items() if value is not None]
    names = ("model", "methods", "questions", "corpus", "index", "base_model", "preset", "output", "runs_dir")
    request = Request(**{name: getattr(given, name) for name in names}, overrides=(*overrides, *given.set))
    steps = {step.name: step for step in (base_model, corpus, index, questions, evaluate)}
    try:
        folder = evaluate_request(request, steps, resolve)
    except KeyboardInterrupt:
        print("\nStopped. Finished answers are kept: the same command goes on from there.", file=sys.stderr)
        raise SystemExit(130) from None
    scores = json.loads((folder / OUTPUTS.scores).read_text(encoding="utf-8"))
    print(f"\n{score_table(scores['em'], scores['average'])}\n")
    print(f"Predictions  {folder / OUTPUTS.predictions}\nReport       {folder / OUTPUTS.report}", flush=True)


def _inspect_data(given: argparse.Namespace) -> None:
    from components.contracts.config import merge, nearest, parse_overrides
    from components.contracts.errors import ConfigError
    from components.contracts.step import StepContext
    from components.corpus.main import step as corpus
    from components.index.main import step as index
    from components.inspect.main import check
    from components.inspect.main import step as inspect
    from components.questions.main import step as questions
    from components.storage import fetch

    steps = {step.name: step for step in (corpus, questions, index, inspect)}
    overrides = parse_overrides("\n".join(given.set))
    if unknown := [name for name in overrides if name not in steps]:
        raise ConfigError(f"Unknown step {unknown[0]!r}{nearest(unknown[0], list(steps))}", ", ".join(steps))
    values = merge(_inspected_settings(given.corpus, given.questions), overrides)
    configs = {name: step.config_class.parse(values[name], where=name) for name, step in steps.items()}
    check(configs["inspect"])
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".inspect-data-", dir=given.output.parent.resolve()) as scratch:

        def run(name: str, **inputs: Any) -> Any:
            context = StepContext(name, f"file://{scratch}", "0" * 64, configs[name].sha256())
            return steps[name].run(configs[name], context, **inputs).manifest

        data = {"questions": run("questions"), "corpus": run("corpus")}
        results = run("inspect", **data, index=run("index", corpus=data["corpus"]))
        given.output.mkdir(exist_ok=True)
        for entry in results.files:
            shutil.copyfile(fetch(results) / entry.path, given.output / entry.path)
    print((given.output / "inspection.txt").read_text(encoding="utf-8"))
    print(f"Page  {given.output / 'report.html'}\nJSON  {given.output / 'inspection.json'}", flush=True)


def _inspected_settings(corpus_uri: str, questions_uri: str) -> dict[str, Any]:
    """Return settings that look at everything: what a training run would refuse or leave out is counted instead."""
    return {
        "corpus": {"uri": corpus_uri, "max_malformed_lines": 1_000_000},
        "questions": {
            "uri": questions_uri,
            "absent_sets": "skip",
            "max_malformed_rows": 1_000_000,
            "train_kinds": [],
            "dev_questions": 0,
        },
        "index": {"golden_queries": 0},
        "inspect": {},
    }


LOCAL_COMMANDS = (
    (arguments.run_parser, _run),
    (arguments.plan_parser, _plan),
    (arguments.compile_parser, _compile),
    (arguments.lineage_parser, _lineage),
    (arguments.report_parser, _report),
    (arguments.evaluate_parser, _evaluate),
    (arguments.inspect_data_parser, _inspect_data),
)
"""What adds the parser of a command -> what the command does, in the order of the help."""


if __name__ == "__main__":
    main()
