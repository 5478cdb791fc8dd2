"""The probe after a publish, with the torch engine as one that is right and doubles that are wrong."""

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import components.base_model
from components.agent.config import VllmConfig
from components.agent.engines.load import load_model
from components.agent.engines.open import open_engine, probe_tolerance_nats
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.publishing import _TEXT, PROBE_TOKENS, check_weights, probe_ids
from components.contracts.errors import EngineError, MissingError

BUNDLED = Path(components.base_model.__file__).parent / "bundled" / "model"
LIMITS = {"num_slots": 2, "max_context_tokens": 128, "vllm": VllmConfig()}


@pytest.fixture(scope="module")
def loaded():
    return load_model(BUNDLED, "cpu")


@pytest.fixture
def engine(loaded):
    return open_engine("torch", BUNDLED, loaded=loaded, **LIMITS)[0]


@torch.no_grad()
def plain_logprobs(model, ids) -> list[float]:
    logprobs = model(torch.tensor([list(ids)])).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(list(ids))[1:, None])[:, 0].tolist()


class Wrong:
    """An engine that is off by `scored` in scores and by `generated` in what it samples, up and down in turns."""

    def __init__(self, engine, scored=0.0, generated=0.0) -> None:
        self._engine, self._scored, self._generated = engine, scored, generated

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def score(self, token_ids):
        return off(self._engine.score(token_ids), self._scored)

    def step(self):
        turns = self._engine.step()
        for turn in turns:
            turn.logprobs[:] = off(turn.logprobs, self._generated)
        return turns


def off(logprobs, error) -> list[float]:
    return [logprob + error * (-1) ** place for place, logprob in enumerate(logprobs)]


@pytest.mark.parametrize(
    ("scored", "generated", "complaint"),
    [
        pytest.param(0.0, 0.0, "", id="right"),
        pytest.param(5e-5, 0.0, "", id="scores as far off as allowed"),
        pytest.param(0.0, 5e-5, "", id="turns as far off as allowed"),
        pytest.param(1e-3, 0.0, r"scored tokens .* 0\.001 nats .* weights did not arrive", id="old weights"),
        pytest.param(0.0, -0.02, r"generated tokens .* 0\.02 nats .* former weights", id="old cache"),
        pytest.param(float("nan"), 0.0, "scored tokens", id="not a number"),
    ],
)
def test_probe_names_what_is_wrong(engine, loaded, scored, generated, complaint):
    model, tokenizer = loaded
    arguments = (
        Wrong(engine, scored, generated),
        probe_ids(tokenizer, 128),
        lambda ids: plain_logprobs(model, ids),
        1e-4,
    )
    if not complaint:
        assert check_weights(*arguments) == pytest.approx(max(scored, generated), abs=1e-5)
        return
    with pytest.raises(EngineError, match=f"^engine: .*{complaint}"):
        check_weights(*arguments)


def test_probe_leaves_the_engine_as_it_was(engine, loaded):
    model, tokenizer = loaded
    for _ in range(3):
        check_weights(engine, probe_ids(tokenizer, 128), lambda ids: plain_logprobs(model, ids), 1e-4)
    assert not engine.has_unfinished()


@pytest.mark.parametrize(("context", "length"), [(4096, PROBE_TOKENS), (64, 56)])
def test_probe_text_fits_the_context(loaded, context, length):
    ids = probe_ids(loaded[1], context)
    assert len(ids) == length
    assert ids == probe_ids(loaded[1], context)


class Words:
    """A tokenizer that says the probe's text in few tokens."""

    def encode(self, text, *, add_special_tokens):
        return [len(word) for word in text.split()]


def test_probe_repeats_a_text_that_is_too_short_for_the_prefix_cache():
    ids, said = probe_ids(Words(), 4096), Words().encode(_TEXT, add_special_tokens=False)
    assert len(said) < PROBE_TOKENS == len(ids)
    assert ids == (said * 4)[:PROBE_TOKENS]


def test_torch_engine_shares_the_trainers_module(engine, loaded):
    assert engine.model is loaded[0]


def test_torch_engine_with_a_copy_knows_only_what_was_published(loaded):
    """Nothing else notices a lost weight here: the trainer probes vLLM alone."""
    engine, _ = open_engine("torch", BUNDLED, **LIMITS)
    model, ids = copy.deepcopy(loaded[0]), probe_ids(loaded[1], 128)
    before = engine.score(ids)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    assert engine.score(ids) == before
    assert engine.score(ids) != pytest.approx(plain_logprobs(model, ids), abs=1e-3)
    with pytest.raises(EngineError, match=r"1 weights were not published, for example model\.norm\.weight"):
        engine.publish((name, tensor) for name, tensor in model.named_parameters() if name != "model.norm.weight")
    engine.publish(model.named_parameters())
    assert check_weights(engine, ids, lambda whole: plain_logprobs(model, whole), 1e-4) < 1e-5


@pytest.mark.parametrize("shared", [True, False], ids=["the trainer's module", "a copy"])
def test_turn_after_a_publish_reads_nothing_that_former_weights_left_in_the_cache(loaded, shared):
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    engine, _ = open_engine("torch", BUNDLED, loaded=(model, tokenizer) if shared else None, **LIMITS)
    ids = probe_ids(tokenizer, 64)
    for _ in range(2):
        engine.add_request(TurnRequest(0, list(ids), 4, 0.0, 0, ()))
        (turn,) = [turn for _ in range(4) for turn in engine.step()]
        ids += turn.token_ids
        assert turn.logprobs == pytest.approx(plain_logprobs(model, ids)[-4:], abs=1e-4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
        engine.publish(model.named_parameters())


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing_vllm_is_said_with_its_remedy():
    with pytest.raises(MissingError, match=r"pip install 'searchr1\[vllm\]'"):
        open_engine("vllm", BUNDLED, **LIMITS)


@pytest.mark.parametrize("name", ["torch", "vllm"])
def test_folder_without_a_model_is_an_error(name, tmp_path):
    with pytest.raises(MissingError, match="holds no model"):
        open_engine(name, tmp_path, **LIMITS)


@pytest.mark.parametrize(
    ("settings", "place", "tolerance_nats"),
    [
        pytest.param({}, {"on_cpu": True}, 1e-4, id="float32 by default on a CPU"),
        pytest.param({}, {"on_cpu": False}, 0.1, id="bfloat16 by default on a GPU"),
        pytest.param({"dtype": "float32"}, {"on_cpu": False}, 1e-4, id="float32 asked for"),
        pytest.param({"dtype": "bfloat16"}, {"on_cpu": True}, 0.1, id="bfloat16 asked for"),
        pytest.param({}, {"on_cpu": True, "trained_in_float32": False}, 0.1, id="the trainer rounds"),
        pytest.param({"max_probe_error_nats": 0.5}, {"on_cpu": False}, 0.5, id="given"),
    ],
)
def test_tolerance_follows_the_precision(settings, place, tolerance_nats):
    assert probe_tolerance_nats(VllmConfig(**settings), **place) == tolerance_nats
