"""What a learner has to remember, as tensors: each rank's shards out, and in again on any number of ranks.

FSDP2 splits every parameter and its moments into blocks of rows, one for each rank, the first ones of equal size. So
files of any number of ranks, laid end to end, are the whole, and each rank reads the rows it needs, from the files
that hold them: all files for every rank of a node would be more than its disk holds.
"""

from collections.abc import Collection, Mapping
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


def check_parts(learner: Learner, found: Collection[str]) -> None:
    """Refuse a checkpoint of the parts `found` that lacks one of `learner`.

    Raises:
        ManifestError: it does.
    """
    if missing := part_names(learner) - set(found):
        raise ManifestError(f"The checkpoint is of another algorithm: it has no {', '.join(sorted(missing))}")


def part_names(learner: Learner) -> set[str]:
    """Return the names of what `shards_of` returns."""
    return learner.modules().keys() | {f"{name}_optimizer" for name in learner.optimizers}


def ranks_to_read(learner: Learner, part: str, ranks_then: int) -> list[int]:
    """Return which of the `ranks_then` that saved `part` hold rows that this rank keeps now: one of them at least."""
    if ranks_then == world_size():
        return [rank()]
    found: set[int] = set()
    for tensor in _tensors(learner, part):
        start, stop = _own_rows(tensor)
        if stop > start:
            block = _block(tensor, ranks_then)
            found |= set(range(start // block, -(-stop // block)))
    return sorted(found) or [0]


def load_part(learner: Learner, part: str, reader: "ShardReader") -> None:
    """Load `part`.

    Raises:
        ManifestError: a weight has another shape.
    """
    if part not in learner.modules():
        _load_moments(learner.optimizers[part.removesuffix("_optimizer")], reader)
        return
    with torch.no_grad():
        for key, tensor in learner.modules()[part].state_dict().items():
            # The second name of a shared tensor is not stored: it comes with the first.
            if key in reader.names:
                own, rows = _local(tensor), reader.rows_like(tensor, key)
                if own.shape != rows.shape:
                    shapes = f"{tuple(rows.shape)}, not {tuple(own.shape)}"
                    raise ManifestError(f"The checkpoint is of another model: its {key} is {shapes}")
                own.copy_(rows)


class ShardReader:
    """Files of one part as one set of tensors, of which rows can be read.

    Args:
        files: Rank that saved it -> its file, for those of `ranks_to_read`.
        ranks_then: How many ranks saved the part.
    """

    def __init__(self, files: Mapping[int, Path], ranks_then: int) -> None:
        self._files = {number: safe_open(file, framework="pt") for number, file in files.items()}
        self._ranks_then = ranks_then
        # A rank without rows stores a shared tensor under both of its names.
        self.names = frozenset.intersection(*(frozenset(file.keys()) for file in self._files.values()))

    def rows_like(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return those rows of `name` that this rank keeps of `tensor`, on the CPU; a number comes as it is.

        They may be memory that lies in the file.
        """
        some_file = next(iter(self._files.values()))
        shape = some_file.get_slice(name).get_shape()
        if self._ranks_then == world_size() or not shape:
            return some_file.get_tensor(name)
        start, stop = _own_rows(tensor)
        block, found = _block(tensor, self._ranks_then), []
        for number, file in sorted(self._files.items()):
            part, offset = file.get_slice(name), number * block
            first, last = max(0, start - offset), min(part.get_shape()[0], stop - offset)
            if first < last:
                found.append(part[first:last])
        return torch.cat(found) if found else torch.empty(0, *shape[1:])


def _tensors(learner: Learner, part: str) -> Collection[torch.Tensor]:
    if part in learner.modules():
        return learner.modules()[part].state_dict().values()
    return _parameters(learner.optimizers[part.removesuffix("_optimizer")])


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _block(tensor: torch.Tensor, num_ranks: int) -> int:
    return -(-tensor.shape[0] // num_ranks)


def _own_rows(tensor: torch.Tensor) -> tuple[int, int]:
    if not isinstance(tensor, DTensor):
        return 0, len(tensor)
    block = _block(tensor, world_size())
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
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key in sorted(reader.names):
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        # A copy: the optimizer keeps what it is given, and a file that lies in memory keeps its room on the disk.
        value = reader.rows_like(parameter, key).clone()
        if value.ndim and isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            shape, stride = parameter.shape, parameter.stride()
            value = DTensor.from_local(
                value.to(mesh.device_type), mesh, placements, run_check=False, shape=shape, stride=stride
            )
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
