"""What saves memory or time in a sharded module changes no number."""

import pytest
import torch
import torch.distributed as dist
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule

from components.train.config import ParallelConfig
from components.train.learner import Learner
from components.train.shards import shards_of
from components.train.weights import own_logprobs
from tests.integration.test_ranks import EPISODES, everything, train_on
from tests.unit.train.conftest import invented_experience, small_config, tiny_policy


@pytest.fixture(scope="module")
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(micro_batch_rows: int = 2, **options) -> list[torch.Tensor]:
    parallel = ParallelConfig(**options).model_dump()
    learner = Learner(tiny_policy(), small_config(micro_batch_rows=micro_batch_rows, parallel=parallel), 0)
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
        pytest.param({"cpu_offload": True}, id="offloaded"),
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
def test_passes_of_an_update_add_up():
    """Between them weights and gradients stay whole, which must not lose what any of the passes found."""
    for one, several in zip(trained(micro_batch_rows=64), trained(micro_batch_rows=1), strict=True):
        torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("world_of_one")
def test_holding_changes_no_bit_in_half_precision(monkeypatch):
    """Gradients are then kept in another precision than they are computed in."""
    held = trained(micro_batch_rows=1, compute_dtype="bfloat16")
    monkeypatch.setattr(Learner, "_hold_whole", lambda self, hold: None)
    for one, other in zip(held, trained(micro_batch_rows=1, compute_dtype="bfloat16"), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.usefixtures("world_of_one")
def test_a_stop_between_passes_leaves_the_weights_of_the_step_before():
    learner, experience = Learner(tiny_policy(), small_config(micro_batch_rows=1), 0), invented_experience(EPISODES)
    before, passes = shards_of(learner), iter(range(2))
    with pytest.raises(StopIteration):
        train_on(learner, experience, 0, before_pass=lambda: next(passes))
    after = shards_of(learner)
    for part, tensors in before.items():
        assert tensors.keys() == after[part].keys()
        assert all(torch.equal(tensor, after[part][name]) for name, tensor in tensors.items()), part


@pytest.mark.usefixtures("world_of_one")
def test_one_rank_gathers_once_for_all_passes_of_an_update():
    learner = Learner(tiny_policy(), small_config(algorithm="grpo", micro_batch_rows=1), 0)
    held = []
    for step in range(2):
        train_on(
            learner, invented_experience(EPISODES), step, before_pass=lambda: held.append(whole_units(learner.scorer))
        )
    passes = len(held) // 2
    assert passes > 2
    assert held == [0, *[num_units(learner.scorer)] * (passes - 1)] * 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("world_of_one")
def test_one_compiled_graph_serves_all_layers_and_lengths():
    """A break in the graph, or a graph for every length, would cost the speed and say nothing."""
    torch.compiler.reset()
    counters.clear()
    config = small_config(algorithm="grpo", micro_batch_rows=1, parallel={"compile_layers": True})
    learner = Learner(tiny_policy(), config, 0)
    for step, episodes in enumerate((5, EPISODES, 8)):
        train_on(learner, invented_experience(episodes), step)
    graphs = ("layer of the reference", "layer with gradients", "scores of the head", "its gradient")
    assert counters["stats"]["unique_graphs"] == len(graphs)
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("world_of_one")
def test_a_critic_and_rows_side_by_side_stay_below_the_limit_of_graphs():
    """Beyond its limit torch computes as if nothing had been compiled, and says so in a log at most."""
    torch.compiler.reset()
    counters.clear()
    config = small_config(minibatches=2, correction={"mode": "decoupled"}, parallel={"compile_layers": True})
    learner = Learner(tiny_policy(), config, 0)
    for step, episodes in enumerate((5, EPISODES, 8)):
        train_on(learner, invented_experience(episodes), step)
    of_layers = {(how, rows) for how in ("frozen", "scored", "trained") for rows in ("one row", "several rows")}
    assert len(of_layers) < torch._dynamo.config.recompile_limit
    assert counters["stats"]["unique_graphs"] == len(of_layers) + len(("scores of the head", "its gradient"))
    assert not counters["graph_break"]


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


def units_of(module: torch.nn.Module) -> list[FSDPModule]:
    units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
    assert units
    return units


def num_units(module: torch.nn.Module) -> int:
    return len(units_of(module))


def whole_units(module: torch.nn.Module) -> int:
    return sum(unit._get_fsdp_state()._fsdp_param_group.is_unsharded for unit in units_of(module))


@pytest.mark.usefixtures("world_of_one")
def test_half_precision_computes_near_full_precision_and_keeps_float32_weights():
    plain, half = trained(), trained(compute_dtype="bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in half)
    moved = [(a - b).norm() / (a.norm() + 1e-6) for a, b in zip(plain, half, strict=True)]
    assert 0 < max(moved) < 0.05
