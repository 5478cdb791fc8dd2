"""FSDP2: every rank keeps a shard of each parameter in float32, and computes with gathered ones in the compute type.

A module is sharded layer by layer, so that one layer at a time exists whole. Gradients are summed over ranks:
the losses are already divided by the global token count.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from components.train.config import ParallelConfig
from components.train.ranks import device, rank, world_size

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shard(root: nn.Module, backbone: nn.Module, config: ParallelConfig, *, trained: bool) -> None:
    """Shard `root` in place, with every layer of its Hugging Face `backbone` as a unit of its own.

    A frozen module (`trained` False) keeps its shards in the compute type: nothing is ever added to them.
    Without a process group, which is one process on a CPU, the module is left as it is.
    """
    compute_dtype = DTYPES[config.compute_dtype]
    if not dist.is_initialized():
        return
    kept_dtype = torch.float32 if trained else compute_dtype
    mesh = init_device_mesh(device().type, (world_size(),))
    settings = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32),
        # Only a GPU has a use for pinned memory, and without one there is none.
        "offload_policy": CPUOffloadPolicy(device().type == "cuda") if config.cpu_offload else OffloadPolicy(),
        # Alone, there is nobody whose memory would be saved by gathering twice.
        "reshard_after_forward": None if world_size() > 1 else False,
    }
    for layer in layers_of(backbone):
        layer.to(kept_dtype)
        if config.compile_layers:
            # Its forward alone: sharding and checkpointing hook into the call around it.
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if config.activation_checkpointing and trained:
            checkpoint(layer)
        fully_shard(layer, **settings)
    root.to(kept_dtype)
    fully_shard(root, **settings)
    for unit in _units_of(root) if world_size() > 1 else []:
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)


def release(module: nn.Module) -> None:
    """Give back what a forward pass without a backward one gathered: FSDP2 would keep it for the latter.

    That is the outermost unit, with embeddings and head, and everything where one rank has all the shards.
    """
    for unit in _units_of(module):
        unit.reshard()


def hold_whole(module: nn.Module, hold: bool) -> None:
    """Say whether backward passes from now on leave gathered weights and their gradients where they are.

    One rank alone gathers from itself: between the passes of an update that is a copy of everything for nothing. The
    last pass of an update must not hold. Several ranks never do: each would have the whole model in memory.
    """
    for unit in _units_of(module) if world_size() == 1 else []:
        unit.set_reshard_after_backward(not hold, recurse=False)
        unit.set_requires_gradient_sync(not hold, recurse=False)


def _units_of(module: nn.Module) -> list[FSDPModule]:
    return [unit for unit in module.modules() if isinstance(unit, FSDPModule)]


def layers_of(backbone: nn.Module) -> nn.ModuleList:
    """Return the layers of a transformer: its longest list of modules."""
    return max((m for m in backbone.modules() if isinstance(m, nn.ModuleList)), key=len)


def whole_parameters(module: nn.Module, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, whole tensor) of each parameter, one at a time: a collective, in the same order on every rank."""
    for name, parameter in module.named_parameters():
        yield name, whole(parameter.detach() if dtype is None else parameter.detach().to(dtype))


def save_model(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Write the whole model and its tokenizer in the hub's layout, in the precision `dtype`; a collective."""
    tensors = {name: tensor.cpu() for name, tensor in whole_parameters(model, DTYPES[dtype]) if rank() == 0}
    if rank() == 0:
        model.save_pretrained(folder, state_dict=tensors, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        # The library names the precision of the model in memory; readers would load the file in that one.
        file = folder / "config.json"
        described = json.loads(file.read_text(encoding="utf-8")) | {"dtype": dtype}
        file.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sharded tensor gathered, and any other one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
