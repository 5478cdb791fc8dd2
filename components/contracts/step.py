"""How a step runs, whoever starts it: a KFP task, `python -m components.<step>` or a test.

A step is a function `run(config, context, **input_manifests) -> StepResult`. `Step.execute` feeds it
from files and leaves its outputs in files; it contains no knowledge of any step.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from components.contracts.config import StepConfig, merge, parse_overrides, read_config_file
from components.contracts.errors import ConfigError, SearchR1Error
from components.contracts.failures import ERROR_FILE_VARIABLE as ERROR_FILE_VARIABLE
from components.contracts.failures import FailureLog, failures_reported
from components.contracts.manifest import Manifest, ProducedBy

MAX_METRICS = 10
"""Headline numbers of a step: what a person compares between runs at a glance."""
OUTPUT_NAMES = {"manifest": "manifest.json", "card": "card.md", "metrics": "metrics.json", "html": "report.html"}
"""Output -> its file in the folder a command line names."""

_PROVENANCE = "| | digest | where |"


@dataclass(frozen=True)
class StepContext:
    """Where a step stands: shared by every step, free of step knowledge."""

    step: str
    storage_root: str
    """`file:///...` or `s3://bucket/prefix`; content lies below `store/`, unfinished work below `work/`."""
    code_sha256: str
    """Digest of the code the step can reach; part of every content key."""
    config_sha256: str
    started_s: float = field(default_factory=time.time)

    def work_key(self, inputs: dict[str, Manifest]) -> str:
        """Return 16 hex digits that are equal exactly when config, code and input contents are equal."""
        parts = [self.config_sha256, self.code_sha256, *(f"{name}={m.digest}" for name, m in sorted(inputs.items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def work_uri(self, inputs: dict[str, Manifest]) -> str:
        """Return the prefix for this step's unfinished work (checkpoints, partial downloads)."""
        return f"{self.storage_root.rstrip('/')}/work/{self.step}/{self.work_key(inputs)}"

    def produced_by(self) -> ProducedBy:
        """Return the manifest entry that names this step, its code and its wall time so far."""
        return ProducedBy(
            step=self.step,
            version=self.code_sha256[:16],
            git_commit=os.environ.get("SEARCHR1_GIT_COMMIT", "unknown"),
            config_sha256=self.config_sha256,
            seconds=round(time.time() - self.started_s, 3),
        )


@dataclass
class StepResult:
    """What a step leaves behind: its manifest, a Markdown card, at most ten headline numbers, a page."""

    manifest: Manifest
    card: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    html: str = ""


class TaskArtifact(Protocol):
    """What a step needs of a KFP artifact."""

    path: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Binds a name and a config class to a run function."""

    name: str
    config_class: type[StepConfig]
    run: Callable[..., StepResult]
    failures: Callable[[str, str], FailureLog] | None = None
    """Opens, from storage root and name of the step, where a KFP task leaves its failure beside the error file."""

    def execute(
        self, settings: str, inputs: dict[str, str], outputs: dict[str, str], log: FailureLog | None = None
    ) -> StepResult:
        """Run from `settings` (JSON: storage_root, code_sha256, config) and return the result.

        `inputs` maps input names to local manifest files; `outputs` maps `manifest`, `card`, `metrics`
        and `html` to the files to write. A failure is written to the file that `SEARCHR1_ERROR_FILE` names
        and to `log`, and ends the process with the error's exit code; no output file is written then.
        """
        with failures_reported(self.name, log):
            given = json.loads(settings)
            config = self.config_class.parse(given["config"], where=self.name)
            context = StepContext(self.name, given["storage_root"], given["code_sha256"], config.sha256())
            manifests = {name: Manifest.read(path) for name, path in inputs.items()}
            result = self.run(config, context, **manifests)
            assert len(result.metrics) <= MAX_METRICS
            if _PROVENANCE not in result.card:  # a rank that was started from here wrote it already
                result.card = f"{result.card.rstrip()}\n\n{_provenance(result.manifest, manifests)}"
        _write_outputs(result, outputs)
        return result

    def execute_task(
        self, settings: str, inputs: Mapping[str, TaskArtifact], outputs: Mapping[str, TaskArtifact]
    ) -> None:
        """Run as a KFP task: `execute` over the artifacts' paths, then label the artifacts for the UI.

        The manifest artifact carries digest and URI in its metadata, the metrics artifact the headline numbers.
        """
        paths = {name: artifact.path for name, artifact in outputs.items()}
        log = self.failures(json.loads(settings)["storage_root"], self.name) if self.failures else None
        result = self.execute(settings, {name: artifact.path for name, artifact in inputs.items()}, paths, log)
        labels = {"manifest": {"digest": result.manifest.digest, "uri": result.manifest.uri}, "metrics": result.metrics}
        for name, artifact in outputs.items():
            artifact.metadata.update(labels.get(name, {}))

    def main(self, arguments: list[str] | None = None) -> None:
        """Command line of `python -m components.<step>`: config file, overrides, inputs, output folder."""
        parser = argparse.ArgumentParser(prog=f"python -m components.{self.name}", description=self.run.__doc__)
        parser.add_argument("--config", type=Path, help="TOML or JSON file with this step's settings")
        parser.add_argument("--settings", type=Path, help="JSON file as the pipeline hands it to the step, instead")
        parser.add_argument("--set", default="", help="overrides: key=value, separated by commas")
        parser.add_argument("--storage-root", default=f"file://{Path.cwd() / 'runs'}", help="file:// or s3:// prefix")
        parser.add_argument("--input", action="append", default=[], metavar="NAME=FILE", help="input manifest")
        parser.add_argument("--output", type=Path, default=Path("."), help="folder for manifest.json and the rest")
        parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
        given = parser.parse_args(arguments)
        try:
            values = merge(read_config_file(given.config) if given.config else {}, parse_overrides(given.set))
            config = self.config_class.parse(values, where=self.name)
            inputs = dict(_name_and_path(entry) for entry in given.input)
        except SearchR1Error as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        if given.print_config:
            print(json.dumps(config.model_dump(mode="json"), indent=1))
            return
        settings = json.dumps(
            {"storage_root": given.storage_root, "code_sha256": "0" * 64, "config": config.model_dump(mode="json")}
        )
        if given.settings:
            settings = given.settings.read_text(encoding="utf-8")
        # Of several ranks that work on one step (torchrun sets the variable) the first one speaks.
        is_first = os.environ.get("RANK", "0") == "0"
        outputs = {key: str(given.output / name) for key, name in OUTPUT_NAMES.items()} if is_first else {}
        result = self.execute(settings, inputs, outputs)
        if is_first:
            print(result.manifest.to_json())


def _provenance(made: Manifest, inputs: Mapping[str, Manifest]) -> str:
    """Return what came in, what came out, the time it took and where to see more, as Markdown."""
    rows = [f"| in: {name} | `{source.digest[:16]}` | `{source.uri}` |" for name, source in inputs.items()]
    rows.append(f"| out: {made.kind} | `{made.digest[:16]}` | `{made.uri}` |")
    # A store on this machine has no address that a browser could open.
    url = made.mlflow.get("url", "")
    link = f" [MLflow run]({url})" if url.startswith(("http://", "https://")) else ""
    by = made.produced_by
    table = "\n".join([_PROVENANCE, "|---|---|---|", *rows])
    return f"{table}\n\nMade in {by.seconds:.1f} s by code `{by.version}`, commit `{by.git_commit[:12]}`.{link}\n"


def _name_and_path(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not equals:
        raise ConfigError(f"--input {entry!r} has no '='", "NAME=FILE, for example corpus=out/manifest.json")
    return name, path


def _write_outputs(result: StepResult, outputs: dict[str, str]) -> None:
    contents: dict[str, Any] = {
        "manifest": result.manifest.to_json(),
        "card": result.card,
        "metrics": json.dumps(result.metrics, sort_keys=True),
        "html": result.html,
    }
    for name, path in outputs.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(contents[name], encoding="utf-8")
