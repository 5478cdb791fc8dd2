"""The shipped model is what its card, its recipe and its log say."""

import json
import random
from importlib import resources
from itertools import islice
from pathlib import Path

import pytest
import torch

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.engines.load import load_model
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.torch_engine import TorchEngine
from components.agent.prompt import prompt_ids
from components.base_model.config import BaseModelConfig, RecipeConfig
from components.base_model.main import run
from components.base_model.model_card import small_world_card
from components.base_model.pretrain import pretrain
from components.contracts.episode import Action
from components.contracts.step import StepContext
from components.fictional_world.names import draw_names
from components.fictional_world.questions import noun_question, training_questions
from components.fictional_world.relations import RELATIONS
from components.fictional_world.world import build_world
from components.storage import fetch

BUNDLED = Path(str(resources.files("components.base_model") / "bundled"))
LOOP = LoopConfig()


@pytest.fixture(scope="module")
def bundled():
    torch.set_num_threads(1)
    return load_model(BUNDLED / "model", "cpu")


@pytest.fixture(scope="module")
def recipe() -> RecipeConfig:
    return RecipeConfig.parse(json.loads((BUNDLED / "recipe.json").read_text()))


def test_recipe_is_the_default_one_and_the_card_is_its_card(recipe):
    assert recipe == RecipeConfig()
    assert (BUNDLED / "README.md").read_text() == small_world_card(recipe)


def test_log_reaches_the_last_step(recipe):
    steps = [json.loads(line)["step"] for line in (BUNDLED / "pretraining.jsonl").open()]
    assert steps == sorted(set(steps))
    assert steps[-1] == recipe.steps


def test_model_has_the_shape_of_the_recipe(bundled, recipe):
    model, tokenizer = bundled
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers) == (recipe.hidden_size, recipe.num_layers)
    assert config.hidden_size // config.num_attention_heads == 32
    assert config.vocab_size == len(tokenizer)
    assert {path.suffix for path in (BUNDLED / "model").iterdir()} == {".json", ".safetensors"}


def test_step_publishes_the_bundled_files_by_default(tmp_path):
    config = BaseModelConfig()
    manifest = run(config, StepContext("base_model", f"file://{tmp_path}", "0" * 64, config.sha256())).manifest
    names = {str(path.relative_to(BUNDLED)) for path in BUNDLED.rglob("*") if path.is_file()}
    assert {entry.path for entry in manifest.files} == names
    assert (fetch(manifest) / "model" / "model.safetensors").read_bytes() == (
        BUNDLED / "model" / "model.safetensors"
    ).read_bytes()


def first_turns(bundled, questions) -> list[tuple[Action, str]]:
    model, tokenizer = bundled
    engine = TorchEngine(model, tokenizer, num_slots=len(questions), max_context_tokens=LOOP.max_context_tokens)
    for number, question in enumerate(questions):
        ids = prompt_ids(question, LOOP, tokenizer)
        engine.add_request(TurnRequest(number, ids, LOOP.max_turn_tokens, 1.0, number))
    turns = {}
    while engine.has_unfinished():
        turns |= {output.sequence_id: output.token_ids for output in engine.step()}
    return [parse_action(tokenizer.decode(turns[i]), search_enabled=True) for i in range(len(questions))]


def test_it_knows_the_tags_on_names_it_has_never_seen(bundled):
    rng = random.Random(0)
    world = build_world(60, draw_names("test", rng), rng)
    questions = [question.question for question in training_questions(world, rng)[:96]]
    actions = [action for action, _ in first_turns(bundled, questions)]
    assert actions.count(Action.INVALID) < 0.05 * len(actions)
    assert 0.7 < actions.count(Action.SEARCH) / len(actions) < 0.95  # it was shown .85


def test_its_queries_do_not_depend_on_the_relation_asked(bundled):
    """The same subject asked about every relation: the share of queries that repeat it hardly changes."""
    names = list(islice(draw_names("test", random.Random(1)), 64))
    shares = []
    for relation in [relation for relation in RELATIONS if relation.subject == "person"]:
        turns = first_turns(bundled, [noun_question(relation, name) for name in names])
        shares.append(sum(query == name for (_, query), name in zip(turns, names, strict=True)) / len(names))
    assert min(shares) > 0.2
    assert max(shares) - min(shares) < 0.25


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_recipe_begins_as_the_log_says(recipe, tmp_path):
    first = json.loads((BUNDLED / "pretraining.jsonl").read_text().splitlines()[0])
    found = []

    class Enough(Exception):
        pass

    def report(progress):
        found.append(progress)
        raise Enough

    with pytest.raises(Enough):
        pretrain(recipe, LOOP, tmp_path, report)
    assert (found[0].step, found[0].tokens) == (first["step"], first["tokens"])
    # Another processor rounds differently.
    assert found[0].loss == pytest.approx(first["loss"], rel=0.05)
