"""What a learner has to remember, as tensors: each rank's shards out, and in again on any number of ranks.

FSDP2 splits every parameter and its moments into blocks of rows, one for each rank, the first ones of equal size. So
files of any number of ranks, laid end to end, are the whole, and each rank reads the rows it needs.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from components.contracts.errors import ManifestError
from components.train.learner import Learner
from components.train.ranks import rank, world_size


def shards_of(learner: Learner) -> dict[str, dict[str, torch.Tensor]]:
    """Return part -> name -> a CPU copy of this rank's rows, for every module and every optimizer of `learner`."""
    parts = {name: _named(module.state_dict()) for name, module in learner.modules().items()}
    for name, optimizer in learner.optimizers.items():
        state = optimizer.state_dict()["state"]
        parts[f"{name}_optimizer"] = _named(
            {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}
        )
    return parts


def load_shards(learner: Learner, files_of: dict[str, Sequence[Path]]) -> None:
    """Load part -> files of all ranks, in rank order (the own one is enough where there were as many ranks as now).

    Raises:
        ManifestError: a part is missing, or a weight has another shape.
    """
    if missing := (learner.modules().keys() | {f"{name}_optimizer" for name in learner.optimizers}) - files_of.keys():
        raise ManifestError(f"The checkpoint is of another algorithm: it has no {', '.join(sorted(missing))}")
    with torch.no_grad():
        for name, module in learner.modules().items():
            reader = ShardReader(files_of[name])
            for key, tensor in module.state_dict().items():
                # The second name of a shared tensor is not stored: it comes with the first.
                if key in reader.names:
                    own, rows = _local(tensor), reader.rows_like(tensor, key)
                    if own.shape != rows.shape:
                        shapes = f"{tuple(rows.shape)}, not {tuple(own.shape)}"
                        raise ManifestError(f"The checkpoint is of another model: its {key} is {shapes}")
                    own.copy_(rows)
    for name, optimizer in learner.optimizers.items():
        _load_moments(optimizer, ShardReader(files_of[f"{name}_optimizer"]))


class ShardReader:
    """The files of one part as one set of tensors, of which any rows can be read."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [safe_open(file, framework="pt") for file in files]
        self.names = frozenset(self._files[0].keys())

    def rows_like(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return those rows of `name` that this rank keeps of `tensor`, on the CPU; a number comes as it is."""
        if len(self._files) == 1 or not self._files[0].get_slice(name).get_shape():
            return self._files[0].get_tensor(name)
        start, stop = _own_rows(tensor)
        found, offset = [], 0
        for file in self._files:
            part = file.get_slice(name)
            length = part.get_shape()[0]
            if length and start < offset + length and stop > offset:
                found.append(part[max(0, start - offset) : min(length, stop - offset)])
            offset += length
        return torch.cat(found) if found else torch.empty(0, *self._files[0].get_slice(name).get_shape()[1:])


def _own_rows(tensor: torch.Tensor) -> tuple[int, int]:
    if not isinstance(tensor, DTensor):
        return 0, len(tensor)
    block = -(-tensor.shape[0] // world_size())
    return min(rank() * block, tensor.shape[0]), min((rank() + 1) * block, tensor.shape[0])


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _named(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies under the first name of each tensor: safetensors refuses to store one twice."""
    kept: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        local = _local(tensor)
        if not local.numel() or local.data_ptr() not in seen:
            seen.add(local.data_ptr())
            kept[name] = local.detach().to("cpu", copy=True).contiguous()
    return kept


def _load_moments(optimizer: torch.optim.Optimizer, reader: ShardReader) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key in sorted(reader.names):
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        value = reader.rows_like(parameter, key)
        if value.ndim and isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            shape, stride = parameter.shape, parameter.stride()
            value = DTensor.from_local(
                value.to(mesh.device_type), mesh, placements, run_check=False, shape=shape, stride=stride
            )
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
