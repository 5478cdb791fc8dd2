"""New weights reach the engine whole and one at a time, and every way of losing them is noticed."""

import weakref

import pytest
import torch

from components.agent.config import VllmConfig
from components.agent.engines.open import probe_tolerance_nats
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.publishing import check_weights, probe_ids
from components.contracts.errors import EngineError
from components.train.sharding import whole_parameters

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

BUNDLED_ONLY = pytest.mark.parametrize("opened", ["bundled"], indirect=True, scope="session")
CUTTING_ONLY = pytest.mark.parametrize("opened", ["cutting"], indirect=True, scope="session")
TOLERANCE_NATS = probe_tolerance_nats(VllmConfig(), on_cpu=True)


def check(pair, engine=None) -> float:
    ids = probe_ids(pair.tokenizer, pair.vllm.max_context_tokens)
    return check_weights(engine or pair.vllm, ids, lambda ids: pair.logprobs(ids).tolist(), TOLERANCE_NATS)


def test_update_takes_effect(pair):
    ids = probe_ids(pair.tokenizer, 384)
    former = torch.tensor(pair.vllm.score(ids))
    pair.perturb()
    assert (former - pair.logprobs(ids)).abs().mean() > 0.1
    pair.vllm.publish(whole_parameters(pair.model))
    assert check(pair) <= 1e-5


@BUNDLED_ONLY
def test_updates_of_a_small_learning_rate_take_effect(pair):
    for seed in range(3):
        pair.perturb(scale=1e-3, seed=seed)
        with pytest.raises(EngineError, match="weights did not arrive"):
            check(pair)
        pair.vllm.reset_cache()
        pair.vllm.publish(whole_parameters(pair.model))
        assert check(pair) <= 1e-5


class LosesWeights:
    """An engine that takes new weights for granted."""

    def __init__(self, engine) -> None:
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def publish(self, named_tensors) -> None:
        for _ in named_tensors:
            pass
        self.reset_cache()


def test_load_that_does_nothing_is_caught(pair):
    engine = LosesWeights(pair.vllm)
    assert check(pair, engine) <= 1e-5
    pair.perturb()
    engine.publish(whole_parameters(pair.model))
    with pytest.raises(EngineError, match=r"^engine: after publishing .* scored tokens .* weights did not arrive"):
        check(pair, engine)


@pytest.mark.parametrize(
    ("lost", "noticed_by"),
    [
        pytest.param("embed_tokens", "were not published, for example model.embed_tokens.weight", id="a-weight"),
        pytest.param("layers.1.mlp.down_proj", "for example model.layers.1.mlp.down_proj.weight", id="one-layer"),
        pytest.param("k_proj.weight", "weights did not arrive", id="part-of-a-fused-weight"),
    ],
)
def test_lost_weight_is_caught(pair, lost, noticed_by):
    pair.perturb()
    with pytest.raises(EngineError, match=noticed_by):
        pair.vllm.publish((name, tensor) for name, tensor in whole_parameters(pair.model) if lost not in name)
        check(pair)


class KeepsPrefixes:
    """vLLM whose prefix cache outlives a reset."""

    def __init__(self, llm) -> None:
        self._llm = llm

    def __getattr__(self, name):
        return getattr(self._llm, name)

    def reset_prefix_cache(self) -> bool:
        return True


@pytest.fixture(params=[True, False], ids=["reset", "stale"])
def resets(request, pair):
    llm = pair.vllm._llm
    if not request.param:
        pair.vllm._llm = KeepsPrefixes(llm)
    yield request.param
    pair.vllm._llm = llm


def test_prefix_cached_before_an_update_is_not_used_after_it(pair, resets):
    ids = probe_ids(pair.tokenizer, 384)
    assert len(ids) == 96
    assert check(pair) <= 1e-5
    pair.perturb()
    pair.vllm.publish(whole_parameters(pair.model))
    pair.vllm.add_request(TurnRequest(0, ids, 4, 0.0, 0, ()))
    turns = []
    while pair.vllm.has_unfinished():
        turns += pair.vllm.step()
    expected = pair.logprobs(ids + turns[0].token_ids)[-4:]
    gap = (torch.tensor(turns[0].logprobs) - expected).abs().max()
    assert gap < 1e-5 if resets else gap > 0.01
    if resets:
        assert check(pair) <= 1e-5
    else:
        with pytest.raises(EngineError, match=r"generated tokens .* former weights"):
            check(pair)


@CUTTING_ONLY
def test_cache_that_cannot_be_reset_is_an_error(pair):
    class Busy(KeepsPrefixes):
        def reset_prefix_cache(self) -> bool:
            return False

    llm = pair.vllm._llm
    pair.vllm._llm = Busy(llm)
    try:
        with pytest.raises(EngineError, match="did not reset its prefix cache"):
            pair.vllm.publish(whole_parameters(pair.model))
    finally:
        pair.vllm._llm = llm


def test_one_weight_at_a_time_exists(pair):
    alive, most = weakref.WeakSet(), []

    def gathered():
        for name, tensor in whole_parameters(pair.model):
            whole = tensor.clone()
            alive.add(whole)
            most.append(len(alive))
            yield name, whole
            del whole

    pair.vllm.publish(gathered())
    assert len(most) > 20
    assert max(most) <= 3


@CUTTING_ONLY
def test_half_precision_and_other_strides_are_converted(pair):
    with torch.no_grad():
        for parameter in pair.model.parameters():
            parameter.copy_(parameter.bfloat16())
    pair.vllm.publish((name, tensor.bfloat16()) for name, tensor in whole_parameters(pair.model))
    assert check(pair) <= 1e-5
