"""What the loss needs to know about the other ranks; a world of one needs no process group."""

import torch
import torch.distributed


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def sum_over_ranks(value: float) -> float:
    """Return the sum of `value` over all ranks; every rank must call it."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.item()
