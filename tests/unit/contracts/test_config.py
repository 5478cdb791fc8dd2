"""Configs are frozen, bounded, and refuse unknown keys with the nearest known one."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.contracts.config import StepConfig, merge, nearest, parse_overrides, read_config_file
from components.contracts.errors import ConfigError, MissingError


class Optimizer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    learning_rate: float = Field(default=1e-6, gt=0)


class Training(StepConfig):
    steps: int = Field(default=10, ge=1)
    optimizer: Optimizer = Optimizer()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({"step": 3}, "Unknown key 'train.step'; did you mean 'steps'?", id="top level"),
        pytest.param({"optimizer": {"lr_rate": 1}}, "Unknown key 'train.optimizer.lr_rate'", id="nested"),
        pytest.param({"steps": 0}, "train.steps = 0: Input should be greater than or equal to 1", id="bound"),
        pytest.param({"optimizer": {"learning_rate": "fast"}}, "train.optimizer.learning_rate = 'fast'", id="type"),
    ],
)
def test_bad_values_name_the_key(values: dict, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Training.parse(values, where="train")
    assert says in str(raised.value)
    assert "What to do" in str(raised.value)


def test_a_default_is_held_to_its_own_bounds() -> None:
    class Broken(StepConfig):
        steps: int = Field(default=0, ge=1)

    with pytest.raises(ConfigError, match="steps = 0"):
        Broken.parse({})


def test_allowed_lists_the_known_keys() -> None:
    with pytest.raises(ConfigError) as raised:
        Training.parse({"x": 1})
    assert raised.value.allowed == "optimizer, steps"


def test_config_is_frozen_and_round_trips() -> None:
    config = Training.parse({"steps": 3})
    with pytest.raises(ValidationError):
        config.steps = 4
    assert Training.parse(json.loads(config.to_json())) == config
    assert config.sha256() == Training(steps=3).sha256() != Training(steps=4).sha256()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param(
            "train.lr=1e-6, train.on = true;\neval.limit=5",
            {"train": {"lr": 1e-6, "on": True}, "eval": {"limit": 5}},
            id="separators and types",
        ),
        pytest.param("model=Qwen/Qwen2.5-3B", {"model": "Qwen/Qwen2.5-3B"}, id="plain string"),
        pytest.param("a=x=y", {"a": "x=y"}, id="equals sign in the value"),
        pytest.param("a.b=1, a.c=2, a.b=3", {"a": {"b": 3, "c": 2}}, id="the last of several counts"),
        pytest.param("a.b=[1, 2], c=3", {"a": {"b": [1, 2]}, "c": 3}, id="a list holds commas"),
        pytest.param("a='x, y', b=1,", {"a": "x, y", "b": 1}, id="so does a text; a last comma is nothing"),
    ],
)
def test_parse_overrides(text: str, expected: dict) -> None:
    assert parse_overrides(text) == expected


@pytest.mark.parametrize("text", [pytest.param("steps", id="no equals"), pytest.param("=3", id="no key")])
def test_overrides_without_key_or_value_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no key or no '='"):
        parse_overrides(text)


def test_merge_keeps_both_arguments() -> None:
    base, changes = {"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": 4}
    assert merge(base, changes) == {"a": {"x": 1, "y": 3}, "b": 4}
    assert base == {"a": {"x": 1, "y": 2}}
    assert changes == {"a": {"y": 3}, "b": 4}


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert nearest("zzz", ["steps"]) == ""


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        pytest.param("x.toml", None, MissingError, "does not exist", id="missing"),
        pytest.param("x.toml", "a = ", ConfigError, "does not parse", id="bad TOML"),
        pytest.param("x.json", "{", ConfigError, "does not parse", id="bad JSON"),
        pytest.param("x.yaml", "a: 1", ConfigError, "ending '.yaml'", id="other format"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: str | None, error: type, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=says):
        read_config_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [pytest.param("x.toml", "a = 1e-6", id="toml"), pytest.param("x.json", '{"a": 1e-6}', id="json")],
)
def test_read_config_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_config_file(tmp_path / name) == {"a": 1e-6}
