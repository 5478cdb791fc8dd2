"""Preset, form fields and overrides become one settings string per task: defaults < preset < fields < overrides."""

import json
import re
from collections.abc import Mapping
from typing import Any

from components.contracts.config import StepConfig, merge, nearest, parse_overrides
from components.contracts.errors import ConfigError
from components.resolve.code_digest import code_digests
from components.resolve.config import ResolveConfig
from components.resolve.presets import load_preset
from components.resolve.tasks import Task

FIELDS = {
    "corpus_uri": "corpus.uri",
    "questions_uri": "questions.uri",
    "base_model": "base_model.source",
    "model_name": "register.model_name",
}
"""Run parameter -> the setting it stands for."""
_SECRET = re.compile(r"://[^/\s@:]*:[^/\s@]+@|[?&](x-amz-signature|x-goog-signature|sig|access_token)=", re.IGNORECASE)
"""A password, or a signature that opens a file to everybody who holds the address."""


def resolve_settings(
    config: ResolveConfig, tasks: Mapping[str, Task], found: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, str]:
    """Return task name -> settings JSON (`storage_root`, `code_sha256`, `config`), in the order of `tasks`.

    `found` (task -> values) is laid over everything: what a look at the sources told. Equal settings give equal
    strings, whatever way they were asked for: they are the cache keys of the steps.

    Raises:
        ConfigError: a preset, task or key is unknown (its nearest match is named), a value is out of bounds or holds
            a secret.
    """
    _refuse_secrets(config)
    tables = _tables(config, tasks)
    configs: dict[str, StepConfig] = {}
    for name, task in tasks.items():
        values = merge(merge(tables.get(task.laid_over, {}), dict(task.changes)), tables.get(name, {}))
        if "seed" in task.config_class.model_fields:
            values = merge({"seed": config.seed}, values)
        if "seeds" in task.config_class.model_fields:
            seeds = {other: made.seed for other, made in configs.items() if hasattr(made, "seed")}
            values = merge(values, {"preset": config.preset, "seeds": seeds})
        values = merge(values, (found or {}).get(name, {}))
        configs[name] = task.config_class.parse(values, where=name)
    code = code_digests({task.step for task in tasks.values()})
    return {
        name: json.dumps(
            {
                "storage_root": config.storage_root.rstrip("/"),
                "code_sha256": code[tasks[name].step],
                "config": made.model_dump(mode="json"),
            },
            sort_keys=True,
            ensure_ascii=False,
        )
        for name, made in configs.items()
    }


def _refuse_secrets(config: ResolveConfig) -> None:
    """Whoever may see a run sees its parameters, and logs hold them too: the value is not repeated here."""
    for name, value in config:
        if isinstance(value, str) and _SECRET.search(value):
            raise ConfigError(
                f"The parameter {name} holds an address with a password or a signature",
                "addresses that may be shown",
                "keep the data in a bucket or on the hub: their credentials come from Secrets or roles",
            )


def _tables(config: ResolveConfig, tasks: Mapping[str, Task]) -> dict[str, Any]:
    tables = _checked(load_preset(config.preset), tasks, f"preset {config.preset}")
    for field, target in FIELDS.items():
        value = getattr(config, field)
        if value:
            table, _, key = target.partition(".")
            tables = merge(tables, {table: {key: value}})
    return merge(tables, _checked(parse_overrides(config.overrides), tasks, "overrides"))


def _checked(tables: dict[str, Any], tasks: Mapping[str, Task], where: str) -> dict[str, Any]:
    """Return `tables` under the tasks' own names, after checking that each names a task and holds keys."""
    checked: dict[str, Any] = {}
    for given, table in tables.items():
        name = given.replace("-", "_")
        if name not in tasks:
            raise ConfigError(f"Unknown step {given!r} in {where}{nearest(name, list(tasks))}", ", ".join(tasks))
        if not isinstance(table, dict):
            raise ConfigError(f"{given} = {table!r} in {where} is not a table of settings", f"{given}.<key> = <value>")
        checked[name] = table
    return checked
