"""Presets: small TOML files that say how a run differs from the steps' defaults, one table per task.

`extends = "other"` at the top of a file lays it over another one; a preset of several files is laid over each other.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from components.contracts.config import merge, nearest, presets_in, read_config_file
from components.contracts.errors import ConfigError


def preset_names() -> list[str]:
    """Return the names of the bundled presets, sorted."""
    return list(_bundled())


def load_preset(name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the tables of the preset `name` (or of the TOML file of that path), its ancestors merged in.

    Raises:
        ConfigError: there is no such preset, it does not parse, or it extends itself.
    """
    if name in extended_by:
        raise ConfigError(f"Preset {name!r} extends itself: {' -> '.join((*extended_by, name))}")
    merged: dict[str, Any] = {}
    for path in _files_of(name, may_be_layer=bool(extended_by)):
        tables = read_config_file(path)
        parent = tables.pop("extends", "")
        merged = merge(merged, load_preset(parent, (*extended_by, name)) if parent else {})
        merged = merge(merged, tables)
    return merged


def _bundled() -> dict[str, tuple[str, ...]]:
    return presets_in(_folder())


def _folder() -> Traversable:
    return files("pipeline") / "presets"


def _files_of(name: str, *, may_be_layer: bool) -> list[Path]:
    if name.endswith(".toml"):
        return [Path(name)]
    bundled = _bundled()
    if may_be_layer and (_folder() / f"{name}.toml").is_file():
        bundled[name] = (name,)
    if name not in bundled:
        raise ConfigError(
            f"Unknown preset {name!r}{nearest(name, list(bundled))}",
            ", ".join(bundled),
            "name one of these or give a .toml file",
        )
    return [Path(str(_folder() / f"{file}.toml")) for file in bundled[name]]
