"""Presets: found by name or path, laid over each other, and every bundled one fits the steps it configures."""

import re
from functools import reduce
from pathlib import Path

import pytest

from components.contracts.config import presets_in
from components.contracts.errors import ConfigError, MissingError
from components.resolve.main import resolve
from components.resolve.presets import load_preset, preset_names
from components.train.config import TrainConfig


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


GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "presets.md"
PAPER = {
    "steps": 500, "questions_per_step": 512, "temperature": 1.0, "save_every_steps": 100,
    "loop.max_searches": 4, "loop.top_k": 3, "loop.max_turn_tokens": 500, "loop.max_observation_tokens": 500,
    "loop.max_context_tokens": 4096, "loss.clip_low": 0.2, "loss.clip_high": 0.2, "loss.value_clip": 0.5,
    "loss.kl_coefficient": 0.001, "loss.gamma": 1.0, "loss.gae_lambda": 1.0, "loss.entropy_coefficient": 0.001,
    "loss.mask_retrieved_tokens": True, "loss.whiten_per_kind": False, "loss.mask_void_turns": False,
    "loss.mask_truncated": False, "loss.likelihood_guard_coefficient": 0.0, "reward.outcome": "em",
    "reward.format_reward": 0.0, "policy_optimizer.learning_rate": 1e-6, "policy_optimizer.warmup_steps": 142,
    "policy_optimizer.weight_decay": 0.01, "policy_optimizer.beta2": 0.999, "policy_optimizer.final_rate_frac": 1.0,
    "policy_optimizer.max_grad_norm": 1.0, "critic_optimizer.learning_rate": 1e-5, "critic_optimizer.warmup_steps": 8,
    "critic_optimizer.weight_decay": 0.01, "critic_optimizer.beta2": 0.999, "critic_optimizer.final_rate_frac": 1.0,
    "critic_optimizer.max_grad_norm": 1.0,
}  # fmt: skip
"""Search-R1 (arXiv 2503.09516), section 4.2 and appendix B.2, and version 0.2 of its code where they are silent."""
PAPERS_OWN = {
    "ppo": {"episodes_per_question": 1, "minibatches": 2},
    "grpo": {"episodes_per_question": 5, "minibatches": 10},
}


@pytest.mark.parametrize("name", [name for name in preset_names() if not name.startswith("small-world")])
def test_what_differs_from_the_paper_is_explained_in_the_guide(name):
    config = TrainConfig.parse(load_preset(name)["train"]).model_dump()
    paper = PAPER | PAPERS_OWN[config["algorithm"]]
    found = {key: reduce(dict.__getitem__, key.split("."), config) for key in paper}
    differing = {key.removeprefix("policy_optimizer.").removeprefix("critic_optimizer.")
                 for key, value in paper.items() if found[key] != value}  # fmt: skip
    explained = GUIDE.read_text().partition("## Where the presets leave the paper")[2]
    explained = explained.replace("updates of a GRPO step", "`minibatches`")
    assert differing - set(re.findall(r"`([\w.]+)`", explained)) == set()
    on_one_gpu = {"questions_per_step"} if name.endswith("-1x80gb") else set()
    of_grpo = {"minibatches"} if config["algorithm"] == "grpo" else set()
    expected = {"loss.clip_high", "max_grad_norm", "loss.entropy_coefficient", "save_every_steps"}
    assert differing == expected | on_one_gpu | of_grpo
