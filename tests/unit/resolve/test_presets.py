"""Presets: found by name or path, laid over each other, and every bundled one fits the steps it configures."""

import pytest

from components.contracts.config import presets_in
from components.contracts.errors import ConfigError, MissingError
from components.resolve.main import resolve
from components.resolve.presets import load_preset, preset_names


def test_a_preset_extends_another(tmp_path):
    (tmp_path / "base.toml").write_text("[train]\nsteps = 1\nseed = 2\n[corpus]\nuri = 'a'\n")
    (tmp_path / "top.toml").write_text(f"extends = '{tmp_path}/base.toml'\n[train]\nsteps = 3\n")
    assert load_preset(f"{tmp_path}/top.toml") == {"train": {"steps": 3, "seed": 2}, "corpus": {"uri": "a"}}


def test_a_preset_extends_a_combination_or_one_of_its_files(tmp_path):
    for parent in ("qwen2.5-3b-grpo-8x80gb", "algorithm/grpo"):
        (tmp_path / "mine.toml").write_text(f"extends = '{parent}'\n[train]\nsteps = 3\n")
        loaded = load_preset(f"{tmp_path}/mine.toml")["train"]
        assert (loaded["algorithm"], loaded["steps"], "loss" in loaded) == ("grpo", 3, parent != "algorithm/grpo")


def test_a_preset_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text(f"extends = '{tmp_path}/b.toml'")
    (tmp_path / "b.toml").write_text(f"extends = '{tmp_path}/a.toml'")
    with pytest.raises(ConfigError, match=r"extends itself: .*a.toml -> .*b.toml -> .*a.toml"):
        load_preset(f"{tmp_path}/a.toml")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown preset 'smal-world'; did you mean 'small-world'"):
        load_preset("smal-world")


@pytest.mark.parametrize("name", ["paper/search-r1", "model/qwen2.5-3b"])
def test_what_presets_are_made_of_is_no_preset(name):
    with pytest.raises(ConfigError, match="Unknown preset"):
        load_preset(name)


def test_every_model_algorithm_and_machine_is_a_preset():
    models = [f"{name}{kind}" for name in ("qwen2.5-3b", "qwen2.5-7b", "llama-3.2-3b") for kind in ("", "-instruct")]
    machines = ("1x80gb", "8x80gb", "2x8x80gb")
    expected = {f"{m}-{a}-{h}" for m in models for a in ("ppo", "grpo") for h in machines}
    assert set(preset_names()) == expected | {"small-world", "small-world-quick"}


def test_files_of_a_combination_are_laid_over_each_other_in_order(tmp_path):
    for layer in ("model", "algorithm", "hardware"):
        (tmp_path / layer).mkdir()
        (tmp_path / layer / f"{layer[0]}.toml").touch()
    assert presets_in(tmp_path) == {"m-a-h": ("model/m", "algorithm/a", "hardware/h")}
    made = load_preset("qwen2.5-7b-instruct-grpo-1x80gb")
    assert made["base_model"]["source"] == "hf://Qwen/Qwen2.5-7B-Instruct"
    assert made["train"]["num_slots"] == 128
    assert made["train"]["episodes_per_question"] == 5
    assert made["train"]["questions_per_step"] == 64


def test_a_missing_file_is_named():
    with pytest.raises(MissingError, match=r"nowhere\.toml"):
        load_preset("nowhere.toml")


@pytest.mark.parametrize("name", preset_names())
def test_every_bundled_preset_resolves(name):
    settings = resolve(preset=name, storage_root="file:///tmp/runs")
    assert all(settings.values())
