"""Presets: small TOML files that say how a run differs from the steps' defaults, one table per task.

`extends = "other"` at the top of a preset lays it over another one.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from components.contracts.config import merge, nearest, read_config_file
from components.contracts.errors import ConfigError


def preset_names() -> list[str]:
    """Return the names of the bundled presets, sorted."""
    folder = files("pipeline") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the tables of the preset `name` (or of the TOML file of that path), its ancestors merged in.

    Raises:
        ConfigError: there is no such preset, it does not parse, or it extends itself.
    """
    if name in extended_by:
        raise ConfigError(f"Preset {name!r} extends itself: {' -> '.join((*extended_by, name))}")
    tables = read_config_file(_preset_path(name))
    parent = tables.pop("extends", "")
    return merge(load_preset(parent, (*extended_by, name)), tables) if parent else tables


def _preset_path(name: str) -> Path:
    if name.endswith(".toml"):
        return Path(name)
    known = preset_names()
    if name not in known:
        raise ConfigError(
            f"Unknown preset {name!r}{nearest(name, known)}", ", ".join(known), "name one of these or give a .toml file"
        )
    return Path(str(files("pipeline") / "presets" / f"{name}.toml"))
