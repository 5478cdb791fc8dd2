"""Pretraining is repeatable, teaches something, and leaves files that open anywhere."""

import hashlib
from dataclasses import asdict
from math import isfinite, log

import pytest
import torch

from components.agent.config import LoopConfig
from components.agent.engines.load import load_model
from components.base_model.config import RecipeConfig
from components.base_model.pretrain import learning_rate_at, pretrain

TINY = {"hidden_size": 32, "num_layers": 1, "intermediate_size": 32, "rows_per_step": 8, "warmup_steps": 0}


def made(folder, **values):
    reports = []
    pretrain(RecipeConfig(**TINY | values), LoopConfig(), folder, reports.append)
    return reports, hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_same_recipe_same_weights_other_seed_other_weights(tmp_path):
    digests = [made(tmp_path / name, steps=2, seed=seed)[1] for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert digests[0] == digests[1] != digests[2]


def test_loss_falls_and_is_reported(tmp_path):
    first = made(tmp_path / "one", steps=1)[0][-1]
    # Untrained it guesses among all words: a mean over the weights of the tokens, whatever these are.
    model, _ = load_model(tmp_path / "one", "cpu")
    assert first.loss == pytest.approx(log(model.config.vocab_size), rel=0.1)
    reports, _ = made(tmp_path / "more", steps=25, learning_rate=1e-2)
    assert reports[-1].step == 25
    assert reports[-1].loss < 0.9 * first.loss
    assert all(isfinite(value) for value in asdict(reports[-1]).values())
    assert reports[-1].tokens > 25 * 8 * 20


@pytest.mark.parametrize(
    ("start", "harder", "plain"),
    [
        pytest.param("two_hop_from_frac", {"two_hop_frac": 1.0}, {"two_hop_frac": 0.0}, id="two documents"),
        pytest.param("distractors_from_frac", {"max_distractors": 5}, {"max_distractors": 0}, id="distractors"),
    ],
)
def test_what_is_harder_begins_at_its_step(tmp_path, start, harder, plain):
    calm = {"steps": 4, "walk_frac": 0.0, "two_hop_frac": 0.0, "max_distractors": 0}
    at_once, half_way, never = (
        made(tmp_path / str(frac), **calm | harder | {start: frac})[1] for frac in (0.0, 0.5, 1.0)
    )
    assert never == made(tmp_path / "plain", **calm | plain)[1]
    assert len({at_once, half_way, never}) == 3


def test_files_open_as_a_model_and_its_tokenizer(tmp_path):
    made(tmp_path, steps=1)
    model, tokenizer = load_model(tmp_path, "cpu")
    assert model.config.vocab_size == len(tokenizer)
    ids = torch.tensor([tokenizer.encode("Question: who is the director of the film?\n\n")])
    assert torch.isfinite(model(ids).logits).all()
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".txt", ".jinja"}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(0, 0.1, id="first-of-the-warm-up"),
        pytest.param(9, 1.0, id="last-of-the-warm-up"),
        pytest.param(10, 1.0, id="peak"),
        pytest.param(60, 0.51, id="half-way"),
        pytest.param(110, 0.02, id="end"),
    ],
)
def test_learning_rate(step, expected):
    recipe = RecipeConfig(learning_rate=1.0, warmup_steps=10, steps=110)
    assert learning_rate_at(step, recipe) == pytest.approx(expected, abs=1e-6)
