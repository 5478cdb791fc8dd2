"""First step of a run: all settings are resolved and checked here, before anything costs time or money.

Its outputs are parameters, not artifacts, so that the cache of every later step keys on their values.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from components.contracts.step import failures_reported
from components.resolve.config import ResolveConfig
from components.resolve.settings import resolve_settings
from components.resolve.tasks import TASKS


def resolve(**parameters: Any) -> dict[str, str]:
    """Return task name -> settings JSON for the run parameters (the fields of `ResolveConfig`).

    Raises:
        ConfigError: a parameter, preset, task or key is unknown or a value is out of bounds.
    """
    return resolve_settings(ResolveConfig.parse(parameters), TASKS)


def resolve_task(**parameters: Any) -> tuple[str, ...]:
    """Return the settings in the order of `TASKS`, as the KFP task outputs them; failures end the process."""
    with failures_reported("resolve"):
        settings = resolve(**parameters)
        print(f"Preset {parameters['preset']}, seed {parameters['seed']}: {len(settings)} tasks configured", flush=True)
        return tuple(settings.values())


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
