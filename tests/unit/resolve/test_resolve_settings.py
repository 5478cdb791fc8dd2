"""Run parameters to settings strings: precedence, seeds, second tasks of a step, and what is refused."""

import json

import pytest
from pydantic import Field

from components.contracts.config import StepConfig
from components.contracts.errors import ConfigError
from components.resolve.config import ResolveConfig
from components.resolve.settings import resolve_settings
from components.resolve.tasks import TASKS as RUN_TASKS
from components.resolve.tasks import Task


class SourceConfig(StepConfig):
    uri: str = "default"


class LearnConfig(StepConfig):
    steps: int = Field(default=10, ge=1)
    seed: int = 0
    model_name: str = "default"


class FactsConfig(StepConfig):
    preset: str = ""
    seeds: dict[str, int] = {}


TASKS = {
    "corpus": Task("corpus", SourceConfig),
    "train": Task("train", LearnConfig),
    "train_rl_no_search": Task("train", LearnConfig, laid_over="train"),
    "summary": Task("summary", FactsConfig),
}
PRESET = """
[corpus]
uri = "preset"
[train]
steps = 20
[train-rl-no-search]
steps = 5
"""


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(PRESET)
    return str(path)


def resolved(preset, **parameters):
    config = ResolveConfig.parse({"preset": preset, "storage_root": "file:///tmp/r/", **parameters})
    return {name: json.loads(text) for name, text in resolve_settings(config, TASKS).items()}


def values(preset, **parameters):
    return {name: given["config"] for name, given in resolved(preset, **parameters).items()}


@pytest.mark.parametrize(
    ("parameters", "task", "key", "expected"),
    [
        pytest.param({}, "train", "model_name", "default", id="default when nobody says"),
        pytest.param({}, "corpus", "uri", "preset", id="preset over default"),
        pytest.param({"corpus_uri": "field"}, "corpus", "uri", "field", id="field over preset"),
        pytest.param({"corpus_uri": ""}, "corpus", "uri", "preset", id="empty field keeps the preset"),
        pytest.param(
            {"corpus_uri": "field", "overrides": "corpus.uri=top"}, "corpus", "uri", "top", id="override over field"
        ),
        pytest.param({"seed": 4}, "train", "seed", 4, id="seed reaches a step that has one"),
        pytest.param({"seed": 4, "overrides": "train.seed=9"}, "train", "seed", 9, id="override over seed"),
        pytest.param({"overrides": "train.steps=7"}, "train", "steps", 7, id="override of a number"),
        pytest.param({}, "train_rl_no_search", "steps", 5, id="second task keeps its own table"),
        pytest.param(
            {"overrides": "train.model_name=x"},
            "train_rl_no_search",
            "model_name",
            "x",
            id="and follows the first",
        ),
        pytest.param(
            {"overrides": "train-rl-no-search.steps=3"}, "train_rl_no_search", "steps", 3, id="hyphens name it too"
        ),
    ],
)
def test_precedence(preset, parameters, task, key, expected):
    assert values(preset, **parameters)[task][key] == expected


def test_summary_learns_preset_and_seeds(preset):
    facts = values(preset, seed=3, overrides="train-rl-no-search.seed=5")["summary"]
    assert facts == {"preset": preset, "seeds": {"train": 3, "train_rl_no_search": 5}}


def test_storage_root_loses_its_last_slash(preset):
    assert {given["storage_root"] for given in resolved(preset).values()} == {"file:///tmp/r"}


def test_both_train_tasks_carry_the_code_of_their_step(preset):
    settings = resolved(preset)
    assert settings["train"]["code_sha256"] == settings["train_rl_no_search"]["code_sha256"]
    assert settings["train"]["code_sha256"] != settings["corpus"]["code_sha256"]


def test_same_settings_asked_for_in_two_ways_are_the_same_string(preset):
    by_field = ResolveConfig.parse({"preset": preset, "storage_root": "file:///r", "corpus_uri": "x"})
    by_override = ResolveConfig.parse({"preset": preset, "storage_root": "file:///r", "overrides": "corpus.uri=x"})
    assert resolve_settings(by_field, TASKS) == resolve_settings(by_override, TASKS)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        pytest.param({"overrides": "trian.steps=1"}, ["'trian'", "did you mean 'train'"], id="unknown step"),
        pytest.param({"overrides": "train.stepz=1"}, ["train.stepz", "did you mean 'steps'"], id="unknown key"),
        pytest.param({"overrides": "train.steps=0"}, ["train.steps", "greater than or equal to 1"], id="out of bounds"),
        pytest.param({"overrides": "train=3"}, ["train = 3", "not a table"], id="value for a whole step"),
        pytest.param({"overrides": "steps"}, ["'steps'", "="], id="no value"),
        pytest.param({"seed": -1}, ["seed", "greater than or equal to 0"], id="negative seed"),
        pytest.param({"storage_root": "runs"}, ["storage_root", "runs"], id="storage root without scheme"),
        pytest.param({"model_name": "../x"}, ["model_name"], id="model name that is a path"),
        pytest.param({"sed": 1}, ["'sed'", "did you mean 'seed'"], id="unknown parameter"),
    ],
)
def test_refused(preset, parameters, words):
    with pytest.raises(ConfigError) as refused:
        resolved(preset, **parameters)
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("corpus_uri", "https://me:hunter2@example.org/corpus.jsonl", id="password"),
        pytest.param("questions_uri", "https://:hunter2@example.org/", id="token without a user"),
        pytest.param("corpus_uri", "https://b.example.org/k?X-Amz-Signature=hunter2", id="signed address"),
        pytest.param("overrides", "train.steps=3, corpus.uri=https://b.example.org/k?a=1&sig=hunter2", id="override"),
    ],
)
def test_secrets_are_refused_and_not_repeated(preset, name, value):
    with pytest.raises(ConfigError, match=f"The parameter {name} holds") as refused:
        resolved(preset, **{name: value})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "value", ["hf://datasets/owner/name@main/a:b", "https://example.org:8443/k?version=3", "s3://bucket/a@b:c"]
)
def test_addresses_without_secrets_pass(preset, value):
    assert values(preset, corpus_uri=value)["corpus"]["uri"] == value


def test_baselines_are_trained_as_their_tasks_say_whatever_the_training_does():
    overrides = "train.algorithm=grpo, train.episodes_per_question=4, train.loop.top_k=2, train-sft.steps=7"
    config = ResolveConfig.parse({"storage_root": "file:///tmp/r", "overrides": overrides})
    trainings = {
        name: json.loads(text)["config"]
        for name, text in resolve_settings(config, RUN_TASKS).items()
        if name.startswith("train")
    }
    assert {name: (made["algorithm"], made["loop"]["search_enabled"]) for name, made in trainings.items()} == {
        "train": ("grpo", True),
        "train_rl_no_search": ("grpo", False),
        "train_sft": ("sft", False),
        "train_rejection_sampling": ("rejection_sampling", True),
    }
    assert {made["loop"]["top_k"] for made in trainings.values()} == {2}
    assert trainings["train_rejection_sampling"]["episodes_per_question"] == 5
    assert trainings["train_sft"]["steps"] == 7
