"""What would make a training fit: changes of its settings that were really planned and found to fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.contracts.config import merge
from components.contracts.errors import ConfigError
from components.train.config import TrainConfig
from components.train.plan_figures import Plan, make_plan
from components.train.plan_memory import GIB
from components.train.plan_time import GPUS

MAX_REMEDIES = 6
ROOM = 1.25
"""Memory to ask for over what is counted: libraries, buffers, the index."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that makes a training fit, and the plan it was found with."""

    what: str
    plan: Plan


def remedies(plan: Plan) -> list[Remedy]:
    """Return what would make `plan` fit, every one of them planned and found to fit.

    First single changes, then, when there are none, the fewest of the changes that save memory on the same
    GPUs; more GPUs; and another GPU.
    """
    one_by_one = [found for changes in _savings(plan.config) for found in _first_fit(plan, [changes])]
    found = one_by_one or _several(plan)
    found += _first_fit(
        plan,
        [
            {"parallel.gpus_per_node": n}
            for n in (2, 4, 8)
            if n > plan.config.parallel.gpus_per_node and n % plan.config.ranks_per_engine == 0
        ],
    )
    found += _first_fit(plan, [{"parallel.num_nodes": n} for n in (2, 4, 8) if n > plan.config.parallel.num_nodes])
    for gpu in GPUS.values():
        larger = make_plan(plan.config, plan.shape, gpu, plan.assumed)
        if gpu.memory_gib > plan.gpu.memory_gib and larger.fits_gpu:
            found.append(Remedy(f"--gpu {gpu.name}", larger))
            break
    return found[:MAX_REMEDIES]


def _savings(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Yield the changes that save memory, the cheapest in time first; each keeps what is learned the same."""
    context = config.loop.max_context_tokens
    if config.micro_batch_rows > 1:
        yield {"micro_batch_rows": 1}
    if config.row_tokens > context:
        yield {"row_tokens": context}
    for part in (2, 4):
        if config.engine == "torch" and config.num_slots >= 8 * part:
            yield {"num_slots": config.num_slots // part}
        if config.engine == "vllm" and config.vllm.kv_cache_bytes:
            yield {"vllm.kv_cache_bytes": config.vllm.kv_cache_bytes // part}
        if config.engine == "vllm" and not config.vllm.kv_cache_bytes:
            yield {"vllm.gpu_memory_frac": config.vllm.gpu_memory_frac / part}
    if config.engine == "vllm" and not config.vllm.sleep_between_rollouts:
        yield {"vllm.sleep_between_rollouts": True}
    if config.parallel.compute_dtype == "float32":
        yield {"parallel.compute_dtype": "bfloat16"}
    if not config.parallel.activation_checkpointing:
        yield {"parallel.activation_checkpointing": True}
    if not config.parallel.cpu_offload:
        yield {"parallel.cpu_offload": True}


def _first_fit(plan: Plan, candidates: Sequence[dict[str, Any]]) -> list[Remedy]:
    for changes in candidates:
        changed = _changed(plan, changes)
        if changed.fits_gpu:
            return [Remedy(" ".join(f"--set train.{key}={_toml(value)}" for key, value in changes.items()), changed)]
    return []


def _several(plan: Plan) -> list[Remedy]:
    """Return the remedy made of several savings, without those it does not need."""
    changes: dict[str, Any] = {}
    for saving in _savings(plan.config):
        changes |= saving
    if not _changed(plan, changes).fits_gpu:
        return []
    # The dearest are tried first, so that they stay only when nothing else helps.
    for key in reversed(list(changes)):
        without = {name: value for name, value in changes.items() if name != key}
        if _changed(plan, without).fits_gpu:
            changes = without
    return _first_fit(plan, [changes])


def _changed(plan: Plan, changes: dict[str, Any]) -> Plan:
    values = plan.config.model_dump()
    for key, value in changes.items():
        head, _, tail = key.partition(".")
        values = merge(values, {head: {tail: value}} if tail else {head: value})
    return make_plan(TrainConfig.parse(values, where="train"), plan.shape, plan.gpu, plan.assumed)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def refusal(plan: Plan) -> ConfigError:
    """Return the error for a plan that does not fit: its largest parts, and what would fit."""
    if plan.fits_gpu:
        node_gib = plan.host_bytes_per_node / GIB
        return ConfigError(
            f"The training takes {node_gib:.0f} GiB of a machine's memory, a pod gets {plan.config.launch.memory}",
            remedy=f"--set train.launch.memory={ROOM * node_gib:.0f}Gi, or train without cpu_offload on more GPUs",
        )
    largest = sorted((p for p in plan.parts if not p.on_host), key=lambda part: -part.num_bytes)[:3]
    found = remedies(plan)
    lines = [f"{r.what}  ({r.plan.peak_bytes / GIB:.1f} GiB, {r.plan.step_s:.0f} s a step)" for r in found]
    nothing = "nothing known here makes it fit: take a smaller model or shorter episodes"
    return ConfigError(
        f"The training takes {plan.peak_bytes / GIB:.1f} GiB of a GPU that has {plan.gpu.memory_gib:.1f}; most of it: "
        + ", ".join(f"{part.name} {part.num_bytes / GIB:.1f}" for part in largest),
        remedy="one of these fits:\n  " + "\n  ".join(lines) if lines else nothing,
    )
