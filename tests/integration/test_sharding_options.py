"""What saves memory or time in a sharded module changes no number."""

import pytest
import torch
import torch.distributed as dist

from components.train.config import ParallelConfig
from components.train.learner import Learner
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
def test_half_precision_computes_near_full_precision_and_keeps_float32_weights():
    plain, half = trained(), trained(compute_dtype="bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in half)
    moved = [(a - b).norm() / (a.norm() + 1e-6) for a, b in zip(plain, half, strict=True)]
    assert 0 < max(moved) < 0.05
