"""What saves memory or time in a sharded module changes no number."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule

from components.train.config import ParallelConfig
from components.train.learner import Learner
from components.train.weights import own_logprobs
from tests.integration.test_ranks import EPISODES, everything, train_on
from tests.unit.train.conftest import invented_experience, small_config, tiny_policy


@pytest.fixture(scope="module")
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(**options) -> list[torch.Tensor]:
    learner = Learner(tiny_policy(), small_config(parallel=ParallelConfig(**options).model_dump()), 0)
    for name, module in learner.modules().items():
        learner.optimizers[name] = torch.optim.SGD(module.parameters(), 0.1)
    for step in range(2):
        train_on(learner, invented_experience(EPISODES), step)
    return everything(learner)


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"activation_checkpointing": True}, id="activations computed again"),
        pytest.param({"compile_layers": True}, id="compiled", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param(
            {"compile_layers": True, "activation_checkpointing": True},
            id="both",
            marks=[pytest.mark.slow, pytest.mark.timeout(600)],
        ),
    ],
)
def test_option_changes_no_weight(options):
    for plain, found in zip(trained(), trained(**options), strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("world_of_one")
def test_nothing_stays_whole_after_passes_without_a_backward_one():
    """One GPU would hold policy, critic and reference whole beside the update and the rollout."""
    learner = Learner(tiny_policy(), small_config(minibatches=2, correction={"mode": "decoupled"}), 0)
    modules = (learner.scorer, learner.critic, learner.reference)
    learner.score(invented_experience(EPISODES))
    assert not any(map(whole_units, modules)), "after scoring"
    own_logprobs(learner, list(range(1, 20)))
    assert not any(map(whole_units, modules)), "after the probe"
    train_on(learner, invented_experience(EPISODES), 0)
    assert not any(map(whole_units, modules)), "after an update"


def whole_units(module: torch.nn.Module) -> int:
    units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
    assert units
    return sum(unit._get_fsdp_state()._fsdp_param_group.is_unsharded for unit in units)


@pytest.mark.usefixtures("world_of_one")
def test_half_precision_computes_near_full_precision_and_keeps_float32_weights():
    plain, half = trained(), trained(compute_dtype="bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in half)
    moved = [(a - b).norm() / (a.norm() + 1e-6) for a, b in zip(plain, half, strict=True)]
    assert 0 < max(moved) < 0.05
