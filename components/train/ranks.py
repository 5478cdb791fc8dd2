"""The ranks of a training run: who is there, and what they tell each other; a world of one needs no process group.

Every function below `joined` is a collective: all ranks call it, in the same order.
"""

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from components.contracts.errors import ConfigError
from components.train.config import ParallelConfig

COLLECTIVE_TIMEOUT_S = 1800
"""Longest wait for another rank: above the longest episode, below the patience of whoever pays for the GPUs."""
Item = TypeVar("Item")


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank; 0 is the one that logs, saves and publishes."""
    return dist.get_rank() if dist.is_initialized() else 0


def device() -> torch.device:
    """Return the device of this rank: its own GPU where there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(parallel: ParallelConfig) -> Iterator[None]:
    """Hold the process group that torchrun's environment describes; without that environment the world is this process.

    A world of one on a GPU has a group too: sharding needs one, also where there is nobody to share with.

    Raises:
        ConfigError: the environment describes another number of ranks than the configuration, which is how a
            launcher that ignores a setting trains on one GPU in silence.
    """
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != parallel.num_ranks:
        raise ConfigError(
            f"The configuration asks for {parallel.num_ranks} ranks (train.parallel), the launcher started {found}",
            f"{parallel.num_ranks}",
            "start it with torchrun and as many processes, or change train.parallel",
        )
    place = device()
    if "WORLD_SIZE" not in os.environ and place.type == "cpu":
        yield
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo",
        timeout=datetime.timedelta(seconds=COLLECTIVE_TIMEOUT_S),
        **({} if "WORLD_SIZE" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}),
    )
    try:
        yield
    finally:
        # vLLM has done it already where it was closed.
        if dist.is_initialized():
            dist.destroy_process_group()


def sum_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of each value over all ranks; names must be the same everywhere."""
    return _reduced(values, dist.ReduceOp.SUM)


def max_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return the largest of each value over all ranks; names must be the same everywhere."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: Mapping[str, float], operation: dist.ReduceOp) -> dict[str, float]:
    if world_size() == 1 or not values:
        return dict(values)
    names = sorted(values)
    numbers = torch.tensor([values[name] for name in names], dtype=torch.float64)
    dist.all_reduce(numbers, operation)
    return dict(zip(names, numbers.tolist(), strict=True))


def summed_tensor(flat_M: torch.Tensor) -> torch.Tensor:
    """Return the sum of a CPU tensor over all ranks; ranks that know different parts fill in zeros elsewhere."""
    if world_size() > 1:
        dist.all_reduce(flat_M)
    return flat_M


def in_turns(shares: Sequence[Item]) -> list[Item]:
    """Return what all ranks have, dealt back in turns: the inverse of every rank taking `items[rank::world_size]`."""
    if world_size() == 1:
        return list(shares)
    gathered: list[Sequence[Item]] = [()] * world_size()
    dist.all_gather_object(gathered, shares)
    longest = max(map(len, gathered))
    return [share[i] for i in range(longest) for share in gathered if i < len(share)]


def shared_store(host: str, ranks: Sequence[int]) -> dist.Store:
    """Return a store of this launch alone for `ranks`, this one among them; the first of them serves it, on `host`.

    Its connection is not the process group's: a thread that asks it never waits for a collective.
    """
    is_server = rank() == ranks[0]
    own = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False) if is_server else None
    ports = dict(in_turns([(rank(), own.port)] if own else []))
    return own or dist.TCPStore(host, ports[ranks[0]], is_master=False)


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()
