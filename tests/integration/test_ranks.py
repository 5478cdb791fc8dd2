"""Several ranks compute what one does: losses, gradients, weights after updates, for every algorithm."""

import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from components.agent.engines.torch_engine import TorchEngine
from components.contracts.errors import StorageError, TrainingStopped
from components.storage import open_storage
from components.train.checkpoint import Checkpoints, TrainState
from components.train.config import ParallelConfig
from components.train.learner import Learner, Targets
from components.train.packing import pack
from components.train.ranks import in_turns, joined, max_over_ranks, rank, sum_over_ranks, world_size
from components.train.sharding import whole, whole_parameters
from components.train.supervised import imitate
from components.train.weights import own_logprobs
from tests.unit.train.conftest import invented_experience, small_config, tiny_policy
from tests.unit.train.pupil import LetterTokenizer

# Two thirds of the invented episodes leave the loss: their log-probabilities are far from those of the policy.
DECOUPLED = {"mode": "decoupled", "sequence_low": 0.06, "sequence_high": 10.0, "veto_ratio": 0.001}
SETTINGS = {
    "ppo": {"minibatches": 2},
    "grpo": {"minibatches": 2, "algorithm": "grpo"},
    "sft": {"minibatches": 2, "algorithm": "sft"},
    "decoupled": {"minibatches": 2, "algorithm": "grpo", "correction": DECOUPLED},
    "decoupled, one update": {"minibatches": 1, "algorithm": "grpo", "correction": DECOUPLED},
}
ALGORITHMS = tuple(SETTINGS)
FOLDERS = pytest.StashKey[dict[int, Path]]()
EPISODES = 13
"""Not a multiple of any world size, and so few that four ranks have rows of nothing but padding."""


def updated_weights(algorithm: str, parallel: ParallelConfig) -> dict[str, torch.Tensor]:
    """Return weights and metrics after two steps."""
    torch.set_num_threads(1)
    config = small_config(
        **SETTINGS[algorithm],
        episodes_per_question=4,
        row_tokens=24,
        loss={"kl_coefficient": 0.05, "entropy_coefficient": 0.01},
        # Weights after a step of size 1 show the whole gradient.
        policy_optimizer={"learning_rate": 1.0, "warmup_steps": 0},
        critic_optimizer={"learning_rate": 1.0, "warmup_steps": 0},
        parallel=parallel.model_dump(),
    )
    learner = Learner(tiny_policy(), config, pad_id=0)
    for name, module in learner.modules().items():
        # Plain gradient descent keeps differences in the last bits small; Adam divides them by themselves.
        learner.optimizers[name] = torch.optim.SGD(module.parameters(), 0.1)
    experience = invented_experience(EPISODES, group=4)
    torch.manual_seed(3)
    count = experience.num_tokens
    found = {}
    for step in range(2):
        if algorithm == "sft":
            metrics = imitate(learner, experience.sequences, step)
        else:
            old, values, reference = learner.score(experience)
            targets = Targets(
                old, values, reference, torch.randn(count), torch.randn(count), torch.arange(count) % 5 > 0
            )
            metrics = learner.update(experience, targets, step)
        found |= {f"metric {step} {name}": torch.tensor(value) for name, value in metrics.items()}
    for part, module in learner.modules().items():
        found |= {f"{part} {name}": tensor.clone() for name, tensor in whole_parameters(module)}
    return found


def saved_and_restored(parallel: ParallelConfig, folder: Path, name: str) -> list[torch.Tensor]:
    """Save a trained learner, restore it into another one, train on; return whole weights and moments."""
    checkpoints = Checkpoints(open_storage(f"file://{folder}/{name}"))
    learner, other = (Learner(tiny_policy(seed), small_config(parallel=parallel.model_dump()), 0) for seed in (0, 1))
    experience = invented_experience(EPISODES)
    train_on(learner, experience, 0)
    checkpoints.save(learner, TrainState(step=1, best_step=1), folder / "none")
    assert checkpoints.complete() == ["step_000001"]
    checkpoints.restore("step_000001", other)
    other.reference = learner.reference
    for each in (learner, other):
        train_on(each, experience, 1)
    assert all(torch.equal(a, b) for a, b in zip(everything(learner), everything(other), strict=True))
    return everything(other)


class EndlessLetters(LetterTokenizer):
    """What an engine asks of a tokenizer that ends and pads with nothing."""

    eos_token_id = pad_token_id = None


class SlowStorage:
    """Takes its time to store a file, or to refuse it."""

    def __init__(self, storage, seconds: float = 0.2, *, refuses: bool = False) -> None:
        self._storage, self._seconds, self._refuses = storage, seconds, refuses

    def __getattr__(self, name):
        return getattr(self._storage, name)

    def take_file(self, source, key) -> None:
        time.sleep(self._seconds)
        if self._refuses:
            raise StorageError("disk full")
        self._storage.take_file(source, key)


def completed_on_the_way_out(parallel: ParallelConfig, folder: Path) -> dict[str, bool]:
    """Return whether a save was complete after an error of all ranks, after one that one met, and once all had met."""
    storage = open_storage(f"file://{folder}/world_{world_size()}_stopped")
    checkpoints, found = Checkpoints(SlowStorage(storage)), {}
    learner = Learner(tiny_policy(), small_config(parallel=parallel.model_dump()), 0)
    checkpoints.save(learner, TrainState(step=1), folder / "none")
    checkpoints.finish_after(TrainingStopped("by a rule"))
    found["all"] = storage.exists("step_000001/_COMPLETE")
    checkpoints.save(learner, TrainState(step=2), folder / "none")
    if rank() == world_size() - 1:
        checkpoints.finish_after(MemoryError())
        found["one"] = storage.exists("step_000002/_COMPLETE")
    checkpoints.finish()
    found["late"] = storage.exists("step_000002/_COMPLETE")
    return found


def completed_beside_the_training(parallel: ParallelConfig, folder: Path) -> dict[str, bool]:
    """Return whether a save was complete once the first rank had written, all had, and where the last one could not."""
    storage = open_storage(f"file://{folder}/world_{world_size()}_beside")
    checkpoints, found = Checkpoints(SlowStorage(storage, 0.5 * (rank() > 0))), {}
    learner = Learner(tiny_policy(), small_config(parallel=parallel.model_dump()), 0)
    checkpoints.save(learner, TrainState(step=1), folder / "none")
    time.sleep(0.8)
    checkpoints.poll()
    found["by one rank"] = storage.exists("step_000001/_COMPLETE")
    # Every rank polls as often as the others.
    for _ in range(40):
        time.sleep(0.1)
        checkpoints.poll()
    found["by all"] = storage.exists("step_000001/_COMPLETE")
    refusing = Checkpoints(SlowStorage(storage, refuses=rank() == world_size() - 1))
    refusing.save(learner, TrainState(step=2), folder / "none")
    found["without a part"] = "step_000002" in refusing.complete()
    return found


def complete_on_disks_of_their_own(folder: Path) -> list[str]:
    """Return the checkpoints this rank finds where only the first one's disk has any."""
    storage = open_storage(f"file://{folder}/world_{world_size()}_disk_{rank()}")
    if rank() == 0:
        storage.put_bytes(b"", "step_000003/_COMPLETE")
    return Checkpoints(storage).complete()


def published_while_one_is_slow(parallel: ParallelConfig) -> float:
    """Train, give this rank's engine the weights, of which one rank gathers each late; return how far it is off."""
    config = small_config(parallel=parallel.model_dump())
    learner, model = Learner(tiny_policy(), config, 0), tiny_policy()
    engine = TorchEngine(model, EndlessLetters(), num_slots=2, max_context_tokens=32)
    train_on(learner, invented_experience(EPISODES), 0)
    asked = list(range(1, 20))
    before = engine.score(asked)

    def gathered():
        for name, tensor in whole_parameters(learner.policy):
            time.sleep(0.02 * (rank() == 0))
            yield name, tensor

    engine.publish(gathered())
    expected = torch.tensor(own_logprobs(learner, asked))
    assert (expected - torch.tensor(before)).abs().mean() > 1e-3, "there was nothing to publish"
    return (expected - torch.tensor(engine.score(asked))).abs().max().item()


def everything(learner: Learner) -> list[torch.Tensor]:
    weights = [tensor.clone() for module in learner.modules().values() for _, tensor in whole_parameters(module)]
    states = [optimizer.state_dict()["state"] for optimizer in learner.optimizers.values()]
    moments = [entry[key] for state in states for _, entry in sorted(state.items()) for key in sorted(entry)]
    return weights + [whole(moment).clone() for moment in moments]


def train_on(learner: Learner, experience, step: int, before_pass=lambda: None) -> None:
    old, values, reference = learner.score(experience)
    signs = torch.arange(experience.num_tokens) % 3 - 1.0
    learner.update(experience, Targets(old, values, reference, signs, signs, signs < 2), step, before_pass)


def work(number: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel = ParallelConfig(cpu_ranks=world)
    with joined(parallel):
        found = {algorithm: updated_weights(algorithm, parallel) for algorithm in ALGORITHMS}
        found["restored"] = saved_and_restored(parallel, Path(folder), f"world_{world}")
        found["stopped"] = completed_on_the_way_out(parallel, Path(folder))
        found["beside"] = completed_beside_the_training(parallel, Path(folder))
        found["complete"] = complete_on_disks_of_their_own(Path(folder))
        found["published"] = published_while_one_is_slow(parallel)
        found["dealt"] = in_turns([f"{i}" for i in range(11)][rank() :: world])
        found["sum"] = sum_over_ranks({"b": float(rank()), "a": 1.0})
        found["max"] = max_over_ranks({"x": float(rank())})
    torch.save(found, Path(folder) / f"{number}.pt")


class Watched:
    """Remembers the files that were fetched."""

    def __init__(self, storage) -> None:
        self._storage, self.fetched = storage, []

    def __getattr__(self, name):
        return getattr(self._storage, name)

    def get_file(self, key, local) -> None:
        self.fetched.append(Path(key).name)
        self._storage.get_file(key, local)


def reading_work(number: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel = ParallelConfig(cpu_ranks=world)
    with joined(parallel):
        learner = Learner(tiny_policy(2), small_config(parallel=parallel.model_dump()), 0)
        storage = Watched(open_storage(f"file://{folder}"))
        Checkpoints(storage).restore("step_000001", learner)
        torch.save({"whole": everything(learner), "fetched": storage.fetched}, Path(folder) / f"read_by_{number}.pt")


def compiled_work(number: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel = ParallelConfig(cpu_ranks=world, compile_layers=True, activation_checkpointing=True)
    with joined(parallel):
        torch.save(updated_weights("ppo", parallel), Path(folder) / f"{number}.pt")


def spawn(task, world: int, folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(task, args=(world, port, str(folder)), nprocs=world)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    return {algorithm: updated_weights(algorithm, ParallelConfig()) for algorithm in ALGORITHMS}


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory) -> list[dict]:
    """What each rank of a world found."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, request.param, folder)
    request.config.stash[FOLDERS] = request.config.stash.get(FOLDERS, {}) | {request.param: folder}
    return [torch.load(folder / f"{number}.pt") for number in range(request.param)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_and_metrics_do_not_depend_on_the_world_size(algorithm, alone, together):
    for number, found in enumerate(together):
        assert found[algorithm].keys() == alone[algorithm].keys()
        for name, value in alone[algorithm].items():
            where = f"rank {number}, {name}"
            torch.testing.assert_close(
                found[algorithm][name], value, rtol=1e-4, atol=1e-5, msg=lambda text, where=where: f"{where}: {text}"
            )


@pytest.mark.timeout(300)
def test_ranks_agree_on_every_bit(together):
    first, *others = together
    for other in others:
        for algorithm in ALGORITHMS:
            assert all(torch.equal(first[algorithm][name], other[algorithm][name]) for name in first[algorithm])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ranks_that_compile_and_compute_activations_again_end_with_the_same_weights(alone, tmp_path):
    spawn(compiled_work, 2, tmp_path)
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt")
        for name, value in alone["ppo"].items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.timeout(300)
def test_collectives(together):
    world = len(together)
    for found in together:
        assert found["dealt"] == [f"{i}" for i in range(11)]
        assert found["sum"] == {"a": float(world), "b": world * (world - 1) / 2}
        assert found["max"] == {"x": world - 1.0}


@pytest.mark.timeout(300)
def test_ranks_complete_a_save_together_after_an_error_of_all_and_none_waits_for_others_after_its_own(together):
    *others, last = together
    assert last["stopped"] == {"all": True, "one": False, "late": True}
    assert all(found["stopped"] == {"all": True, "late": True} for found in others)


@pytest.mark.timeout(300)
def test_save_is_complete_when_all_ranks_have_written_and_training_waits_for_none_of_them(together):
    expected = {"by one rank": False, "by all": True, "without a part": False}
    assert [found["beside"] for found in together] == [expected] * len(together)


@pytest.mark.timeout(300)
def test_every_rank_goes_on_from_the_checkpoint_that_the_first_one_sees(together):
    assert [found["complete"] for found in together] == [["step_000003"]] * len(together)


@pytest.mark.timeout(300)
def test_weights_reach_the_engine_of_every_rank_although_one_gathers_them_late(together):
    assert max(found["published"] for found in together) < 1e-5


@pytest.mark.timeout(300)
def test_checkpoint_of_several_ranks_is_read_by_one(together, request):
    """Ranks of another number cut the same weights and moments anew."""
    world = len(together)
    folder = request.config.stash[FOLDERS][world]
    learner = Learner(tiny_policy(2), small_config(), 0)
    Checkpoints(open_storage(f"file://{folder}/world_{world}")).restore("step_000001", learner)
    trained = Learner(tiny_policy(0), small_config(), 0)
    train_on(trained, invented_experience(EPISODES), 0)
    for ours, theirs in zip(everything(learner), everything(trained), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    train_on(learner, invented_experience(EPISODES), 1)
    for ours, theirs in zip(everything(learner), together[0]["restored"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.timeout(300)
def test_checkpoint_is_read_by_three_ranks_from_the_files_that_hold_their_rows(together, request):
    """Neither two nor four divides into three: ranks read parts of files."""
    world = len(together)
    folder = request.config.stash[FOLDERS][world] / f"world_{world}"
    learner = Learner(tiny_policy(2), small_config(), 0)
    Checkpoints(open_storage(f"file://{folder}")).restore("step_000001", learner)
    spawn(reading_work, 3, folder)
    found = [torch.load(folder / f"read_by_{number}.pt") for number in range(3)]
    for each in found:
        assert all(torch.equal(a, b) for a, b in zip(each["whole"], everything(learner), strict=True))
    files = {2: (4, 8, 4), 4: (8, 8, 8)}[world]
    assert tuple(len(each["fetched"]) for each in found) == files


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_ranks_share_every_sequence_once_in_equally_many_batches(world, count):
    sequences = invented_experience(count).sequences
    shares = [pack(sequences, 40, 2, pad_id=0, device="cpu", rank=r, world_size=world) for r in range(world)]
    assert len({len(share) for share in shares}) == 1
    tokens = sorted(i for share in shares for batch in share for i in batch.order_M.tolist())
    assert tokens == list(range(sum(len(s.trained_positions) for s in sequences)))


def test_shares_cost_about_the_same():
    sequences = invented_experience(400).sequences
    shares = [pack(sequences, 64, 1, pad_id=0, device="cpu", rank=r, world_size=4) for r in range(4)]
    real = [sum(int((batch.segments_RT >= 0).sum()) for batch in share) for share in shares]
    assert max(real) < 1.05 * min(real)
