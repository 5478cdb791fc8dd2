"""Atomic checkpoints of everything a resumed run needs to end with the same bits.

Layout below the work prefix: `step_000040/{policy,critic,policy_optimizer,...}.safetensors`, `state.json`,
`metrics.jsonl`, and `_COMPLETE` last; a folder without it does not exist for the reader. Tensors are
safetensors, the rest is JSON: nothing is ever unpickled. Sampling and minibatch order are functions of
(seed, step), so no generator state has to be kept.
"""

import json
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from components.storage import Storage
from components.train.learner import Learner

COMPLETE = "_COMPLETE"
_NAME = re.compile(r"^(step_\d{6})/_COMPLETE$")


@dataclass(slots=True)
class TrainState:
    """Where training stands, apart from weights and optimizer moments."""

    step: int = 0
    """Steps done."""
    best_step: int = -1
    best_dev_em: float = -1.0
    em_curve: list[list[float]] = field(default_factory=list)
    """[step, dev EM] of every dev evaluation."""
    drops_in_a_row: int = 0
    was_valid: bool = False
    """Whether valid actions have ever been common."""
    invalid_in_a_row: int = 0
    num_rollbacks: int = 0
    rate_scale: float = 1.0
    rl_s: float = 0.0
    """Seconds of training, all attempts together."""
    tokens: int = 0
    """Model tokens trained on."""


class Checkpoints:
    """Checkpoints of one run in `storage`, newest complete one first; keeps the newest two and the best."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def complete(self) -> list[str]:
        """Return the names of complete checkpoints, oldest first."""
        found = (_NAME.match(info.key) for info in self._storage.list())
        return sorted(match.group(1) for match in found if match)

    def save(self, learner: Learner, state: TrainState, metrics_file: Path) -> None:
        """Write a checkpoint of `state.step`; until its last file is there the previous one stays the newest."""
        name = f"step_{state.step:06d}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for part, module in learner.modules().items():
                save_file(_tensors(module.state_dict()), folder / f"{part}.safetensors")
            for part, optimizer in learner.optimizers.items():
                save_file(_optimizer_tensors(optimizer), folder / f"{part}_optimizer.safetensors")
            (folder / "state.json").write_text(json.dumps(asdict(state)), encoding="utf-8")
            files = [*folder.iterdir(), *([metrics_file] if metrics_file.exists() else [])]
            # A return to the best weights writes the newest checkpoint again: half of each must not look complete.
            self._storage.delete(f"{name}/{COMPLETE}")
            for file in sorted(files):
                self._storage.put_file(file, f"{name}/{file.name}")
        self._storage.put_bytes(b"", f"{name}/{COMPLETE}")
        self._prune(keep={f"step_{state.best_step:06d}"})

    def restore_metrics(self, name: str, metrics_file: Path) -> None:
        """Fetch the metrics saved with checkpoint `name`, unless this machine still has its own file."""
        key = f"{name}/{metrics_file.name}"
        if not metrics_file.exists() and self._storage.exists(key):
            self._storage.get_file(key, metrics_file)

    def restore(self, name: str, learner: Learner) -> TrainState:
        """Load checkpoint `name` into `learner` and return its state."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for info in self._storage.list(f"{name}/"):
                self._storage.get_file(info.key, folder / Path(info.key).name)
            for part, module in learner.modules().items():
                module.load_state_dict(load_file(folder / f"{part}.safetensors"), strict=False)
            for part, optimizer in learner.optimizers.items():
                _load_optimizer(optimizer, load_file(folder / f"{part}_optimizer.safetensors"))
            state = TrainState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))
        learner.rate_scale = state.rate_scale
        return state

    def _prune(self, keep: set[str]) -> None:
        for name in self.complete()[:-2]:
            if name not in keep:
                # The marker goes first: a half-deleted checkpoint must not look complete.
                self._storage.delete(f"{name}/{COMPLETE}")
                self._storage.delete_prefix(f"{name}/")


def _tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `state` without the second name of shared tensors, which safetensors refuses."""
    kept, seen = {}, set()
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    return kept


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
