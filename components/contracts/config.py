"""One frozen typed object per step: bounds live in the type, unknown keys are errors with the nearest match."""

import difflib
import hashlib
import itertools
import json
import re
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.contracts.errors import ConfigError, MissingError

# A comma or semicolon ends an override only where another one begins, so that values may hold them.
_OVERRIDE_SEPARATOR = re.compile(r"\n|[,;](?=\s*[\w.-]+\s*=)")

PRESET_LAYERS = ("model", "algorithm", "hardware")
"""Folders of the presets folder whose files make presets by combination."""


class StepConfig(BaseModel):
    """Base of every step's configuration: immutable, strict about keys, documented per field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "") -> Self:
        """Return the config made of `values`.

        Raises:
            ConfigError: a key is unknown (the nearest known key is named) or a value is out of bounds;
                `where` prefixes the key, so that the message reads like the file it came from.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _readable(cls, error, where) from None

    def to_json(self) -> str:
        """Return the resolved config as JSON with sorted keys; `parse(json.loads(..))` gives an equal object."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)

    def sha256(self) -> str:
        """Return the hex digest of the resolved config."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the mapping in a `.toml` or `.json` file.

    Raises:
        MissingError: the file does not exist.
        ConfigError: the file is neither TOML nor JSON, or does not parse.
    """
    if not path.is_file():
        raise MissingError(f"Configuration file {path} does not exist", remedy="check the path")
    text = path.read_text(encoding="utf-8")
    try:
        match path.suffix:
            case ".toml":
                return tomllib.loads(text)
            case ".json":
                return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path} does not parse: {error}", remedy="mend the file") from None
    raise ConfigError(f"{path} has the ending {path.suffix!r}", allowed=".toml, .json")


def presets_in(folder: Traversable) -> dict[str, tuple[str, ...]]:
    """Return preset name -> the files it is made of, each laid over the ones before it, sorted by name.

    A file of `folder` is a preset by itself. One file of each folder of `PRESET_LAYERS`, joined by hyphens, is one
    as well: `model/qwen2.5-3b` with `algorithm/ppo` and `hardware/8x80gb` is `qwen2.5-3b-ppo-8x80gb`. Any other
    folder holds what presets extend.
    """
    presets = {name: (name,) for name in _toml_names(folder)}
    layers = [[f"{layer}/{name}" for name in _toml_names(folder / layer)] for layer in PRESET_LAYERS]
    for files in itertools.product(*layers):
        presets["-".join(file.partition("/")[2] for file in files)] = files
    return dict(sorted(presets.items()))


def _toml_names(folder: Traversable) -> list[str]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return [entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")]


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it, tables merged key by key; neither argument is modified."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def parse_overrides(text: str) -> dict[str, Any]:
    """Return the nested mapping of `train.steps=10, evaluate.limit=50` (commas, semicolons or newlines separate).

    Values are read as TOML (`1e-6` is a number, `true` a boolean, `["a", "b"]` a list) and fall back to plain strings.

    Raises:
        ConfigError: an entry has no `=`.
    """
    nested: dict[str, Any] = {}
    for entry in (part.strip(" ,;") for part in _OVERRIDE_SEPARATOR.split(text)):
        if not entry:
            continue
        key, equals, raw = entry.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"Override {entry!r} has no key or no '='", "step.key=value, separated by commas")
        change: Any = _toml_value(raw.strip())
        for name in reversed(key.strip().split(".")):
            change = {name: change}
        nested = merge(nested, change)
    return nested


def nearest(name: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the known name most like `name`, or an empty suffix when none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _toml_value(raw: str) -> Any:
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _readable(cls: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    lines, allowed = [], ""
    for item in error.errors():
        path = ".".join([where, *map(str, item["loc"])]).strip(".")
        if item["type"] == "extra_forbidden":
            known = _fields_at(cls, item["loc"][:-1])
            lines.append(f"Unknown key {path!r}{nearest(str(item['loc'][-1]), known)}")
            allowed = ", ".join(known)
        else:
            lines.append(f"{path} = {item['input']!r}: {item['msg']}")
    return ConfigError("\n".join(lines), allowed, "correct the preset or the override that sets it")


def _fields_at(cls: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for name in location:
        field = cls.model_fields.get(str(name))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        cls = field.annotation
    return sorted(cls.model_fields)
