"""First step of a run: all settings are resolved and checked here, before anything costs time or money.

What later steps read are parameters, not artifacts, so that their cache keys on values. The decision comes first:
`known` ends the run here, see `novelty.py`.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts.failures import failures_reported
from components.contracts.step import TaskArtifact
from components.resolve.card import card
from components.resolve.config import ResolveConfig
from components.resolve.novelty import Novelty, novelty
from components.resolve.settings import resolve_settings
from components.resolve.sources import Sources, look_up
from components.resolve.tasks import TASKS
from components.storage import open_storage
from components.storage.failures import RUN_ID_VARIABLE, TaskFailures
from components.tracking.parent import open_parent

RESOLVED_NAME = "resolved.json"
"""What this step found and decided, beside the run's other results: `<storage_root>/<run_id>/resolved.json`."""


def resolve(**parameters: Any) -> dict[str, str]:
    """Return task name -> settings JSON for the run parameters (the fields of `ResolveConfig`); no source is asked.

    Raises:
        ConfigError: a parameter, preset, task or key is unknown or a value is out of bounds.
    """
    return resolve_settings(ResolveConfig.parse(parameters), TASKS)


def resolve_task(outputs: Mapping[str, TaskArtifact], **parameters: Any) -> tuple[str, ...]:
    """Return the decision and the settings in the order of `TASKS`, as the KFP task outputs them.

    `outputs` are the artifacts `card` and `metrics`, which no other task reads. A failure ends the process.
    """
    storage_root = str(parameters.get("storage_root", ""))
    with failures_reported("resolve", TaskFailures.of_environment(storage_root, "resolve")):
        started_s = time.monotonic()
        config = ResolveConfig.parse(parameters)
        plain = {name: json.loads(text)["config"] for name, text in resolve_settings(config, TASKS).items()}
        only_new = config.only_new_corpus == "yes"
        sources = look_up(plain, must_know=only_new)
        settings = resolve_settings(config, TASKS, sources.found)
        found = novelty(only_new, plain["register"]["model_name"], sources.corpus_version)
        # Made here, where nothing runs beside: steps that run in parallel find it.
        mlflow_url = open_parent() if found.decision == "train" else ""
        _store(config, sources, found)
        print(f"Preset {config.preset}, seed {config.seed}: {len(settings)} tasks configured", flush=True)
        print(f"Corpus {sources.corpus_uri}, version {sources.corpus_version or 'unknown'}", flush=True)
        print(f"{found.decision}: {found.reason}", flush=True)
        texts = {
            "card": card(config, sources, found, mlflow_url, time.monotonic() - started_s),
            "metrics": json.dumps({"tasks": len(settings), "is_new_corpus": int(found.decision == "train")}),
        }
        for name, artifact in outputs.items():
            Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
            Path(artifact.path).write_text(texts[name], encoding="utf-8")
            artifact.metadata.update(json.loads(texts[name]) if name == "metrics" else {})
        return (found.decision, *settings.values())


def _store(config: ResolveConfig, sources: Sources, found: Novelty) -> None:
    run_id = os.environ.get(RUN_ID_VARIABLE, "")
    if not run_id:
        return
    resolved = {
        "schema_version": 1,
        "run_id": run_id,
        "preset": config.preset,
        "corpus_uri": sources.corpus_uri,
        "corpus_version": sources.corpus_version,
        "decision": found.decision,
        "reason": found.reason,
        "model_version": found.model_version,
    }
    storage = open_storage(f"{config.storage_root.rstrip('/')}/{run_id}")
    storage.put_bytes(f"{json.dumps(resolved, indent=1)}\n".encode(), RESOLVED_NAME)


def main() -> None:
    """Command line of `python -m components.resolve`: print the resolved settings of every task."""
    parser = argparse.ArgumentParser(prog="python -m components.resolve", description="Print the settings of a run.")
    for name, field in ResolveConfig.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=field.description)
    given = vars(parser.parse_args())
    given.setdefault("storage_root", f"file://{Path.cwd() / 'runs'}")
    if "seed" in given and given["seed"].isdigit():
        given["seed"] = int(given["seed"])
    with failures_reported("resolve"):
        print(json.dumps({name: json.loads(text) for name, text in resolve(**given).items()}, indent=1))
