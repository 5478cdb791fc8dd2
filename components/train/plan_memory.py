"""Bytes that a training takes on each GPU, part by part.

Policy, critic and reference are cut into equal shards over all GPUs (FSDP2); every GPU, or group of neighbours with
vLLM's tensor parallelism, has an engine of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.train.config import TrainConfig
from components.train.cost import ModelShape, activation_bytes_per_token

GIB = 2**30
FLOAT32_BYTES = 4
LOGITS_PER_CHUNK = 1 << 28
"""Largest chunk of logits that `head.py` computes at a time."""
LOGIT_COPIES = 3
"""Float32 tensors of the size of such a chunk that exist together."""
FUSED_LOGIT_COPIES = 2
"""The same where the head is compiled: the logits, and their gradient in the compute type."""
GATHERED_LAYERS = 2
"""Layers whose weights are whole at a time: the one at work and the one fetched ahead."""
SAMPLING_BYTES_PER_LOGIT = 20
"""Logits, their float32 copy, log-probabilities and cumulative probabilities in float64."""
CHECKPOINT_BYTES_PER_PARAMETER = 3 * FLOAT32_BYTES
"""Weight and two moments."""
OPTIMIZER_COPIES = 1
"""Copies of a module's shard during its optimizer's step, at most: measured (benchmarks/results/gpu.json)."""
VLLM_GRAPHS_BYTES = GIB
"""Recorded CUDA graphs of vLLM."""
CONTEXT_BYTES = 1.5 * GIB
"""CUDA context, matrix library workspaces, communication buffers."""
FRAGMENTATION_FRAC = 0.05
"""Memory the allocator cannot use, as a share of what is used."""

_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)
}


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One use of memory; passes, optimizers and rollouts follow each other: only the largest of them counts.

    Gradients exist in the first two, as `update`.
    """

    name: str
    num_bytes: float
    when: Literal["always", "update", "passes", "optimizers", "rollout"] = "always"
    on_host: bool = False


def num_gpus(config: TrainConfig) -> int:
    """Return the GPUs of all nodes."""
    return config.parallel.num_nodes * config.parallel.gpus_per_node


def bytes_per_number(config: TrainConfig) -> int:
    """Return the size of a number in matrix products."""
    return 2 if config.parallel.compute_dtype == "bfloat16" else FLOAT32_BYTES


def micro_batch_tokens(config: TrainConfig) -> int:
    """Return the most tokens of a forward and backward pass: a row is as long as its longest episode at least."""
    return config.micro_batch_rows * max(config.row_tokens, config.loop.max_context_tokens)


def trained_modules(config: TrainConfig, shape: ModelShape) -> dict[str, int]:
    """Return name -> parameters of what is trained."""
    critic = {"critic": shape.critic_parameters} if config.algorithm == "ppo" else {}
    return {"policy": shape.num_parameters} | critic


def checkpoint_bytes(config: TrainConfig, shape: ModelShape) -> int:
    """Return the size of a checkpoint, the files of all ranks together."""
    return CHECKPOINT_BYTES_PER_PARAMETER * sum(trained_modules(config, shape).values())


def memory_parts(config: TrainConfig, shape: ModelShape, gpu_bytes: float) -> list[MemoryPart]:
    """Return what each GPU of `gpu_bytes` (or, offloaded, its share of the host) holds at most."""
    parts = _sharded_parts(config, shape)
    parts += [*_update_parts(config, shape), *_engine_parts(config, shape, gpu_bytes)]
    parts.append(MemoryPart("CUDA context, workspaces, communication", CONTEXT_BYTES))
    return [*parts, MemoryPart("lost to fragmentation", FRAGMENTATION_FRAC * peak_bytes(parts))]


def peak_bytes(parts: Sequence[MemoryPart]) -> float:
    """Return the bytes of a GPU when most are in use."""
    by_phase = dict.fromkeys(("always", "update", "passes", "optimizers", "rollout"), 0.0)
    for part in parts:
        by_phase[part.when] += part.num_bytes * (not part.on_host)
    update = by_phase["update"] + max(by_phase["passes"], by_phase["optimizers"])
    return by_phase["always"] + max(update, by_phase["rollout"])


def host_bytes(parts: Sequence[MemoryPart]) -> float:
    """Return the bytes of the host that one GPU's share of the training takes; libraries and buffers come on top."""
    return sum(part.num_bytes for part in parts if part.on_host)


def quantity_bytes(quantity: str) -> float:
    """Return the bytes of an amount of memory as Kubernetes writes it."""
    number, unit = re.fullmatch(r"([0-9.]+)(.*)", quantity).groups()
    return float(number) * _UNITS[unit]


def _sharded_parts(config: TrainConfig, shape: ModelShape) -> list[MemoryPart]:
    shards, offloaded = num_gpus(config), config.parallel.cpu_offload
    parts = []
    for name, count in trained_modules(config, shape).items():
        shard_bytes = FLOAT32_BYTES * count / shards
        parts += [
            MemoryPart(f"{name}: weights, float32", shard_bytes, on_host=offloaded),
            MemoryPart(f"{name}: Adam moments, float32", 2 * shard_bytes, on_host=offloaded),
            MemoryPart(f"{name}: gradients, float32", shard_bytes, "update", on_host=offloaded),
        ]
    largest = max(trained_modules(config, shape).values())
    copies_bytes = OPTIMIZER_COPIES * FLOAT32_BYTES * largest / shards
    if not offloaded:
        parts.append(MemoryPart("working copies of an optimizer", copies_bytes, "optimizers"))
    # Saving copies the shards to the host and writes them beside the training.
    parts.append(MemoryPart("checkpoint on its way to storage", checkpoint_bytes(config, shape) / shards, on_host=True))
    if config.loss.kl_coefficient:
        # Nothing is ever added to it: it is kept in the precision it computes in.
        reference_bytes = bytes_per_number(config) * shape.num_parameters / shards
        parts.append(MemoryPart("reference: weights", reference_bytes, on_host=offloaded))
    return parts


def _update_parts(config: TrainConfig, shape: ModelShape) -> list[MemoryPart]:
    width, tokens = bytes_per_number(config), micro_batch_tokens(config)
    # Embeddings, head and last norm are one unit that stays whole from the forward to the end of the backward pass.
    root = shape.num_parameters - shape.num_layers * shape.layer_parameters
    layers = GATHERED_LAYERS * shape.layer_parameters
    # One GPU alone keeps all that it gathered until the last pass of an update, unless it has to make room.
    alone = num_gpus(config) == 1 and not config.parallel.cpu_offload
    weights = sum(trained_modules(config, shape).values()) if alone else root + layers
    gathered_bytes = weights * width + root * width + layers * (width + FLOAT32_BYTES)
    # Gradients are summed in float32 before they go where they are kept; one GPU alone sums them there.
    gathered_bytes += 0 if alone else root * FLOAT32_BYTES
    parallel = config.parallel
    in_layer, input_only = activation_bytes_per_token(shape, width, fused=parallel.compile_layers)
    kept = input_only if parallel.activation_checkpointing else in_layer
    # Beside what is kept there are the gradients of one layer and, when checkpointed, that layer computed again.
    layer_bytes = tokens * in_layer * (2 if parallel.activation_checkpointing else 1)
    chunk_bytes = FLOAT32_BYTES * min(LOGITS_PER_CHUNK, tokens * shape.vocab_size)
    copies = FUSED_LOGIT_COPIES if parallel.compile_layers else LOGIT_COPIES
    head_bytes = copies * chunk_bytes + 2 * FLOAT32_BYTES * shape.embedding_parameters
    return [
        MemoryPart("gathered weights and gradients", gathered_bytes, "passes"),
        MemoryPart(f"activations of {tokens:,} tokens", tokens * shape.num_layers * kept, "passes"),
        MemoryPart("the layer at work, or the logits", max(layer_bytes, head_bytes), "passes"),
    ]


def engine_bytes_per_number(config: TrainConfig) -> int:
    """Return the size of a number in the engine's weights and cache."""
    if config.engine == "vllm":
        return FLOAT32_BYTES if config.vllm.dtype == "float32" else 2
    return bytes_per_number(config)


def cache_bytes_per_token(config: TrainConfig, shape: ModelShape) -> float:
    """Return what a token leaves in the cache of each GPU; an engine's ranks share its heads, each has one at least."""
    num_parts = min(config.ranks_per_engine, shape.num_kv_heads)
    return shape.kv_bytes_per_token(engine_bytes_per_number(config)) / num_parts


def cache_bytes(config: TrainConfig, shape: ModelShape, gpu_bytes: float) -> float:
    """Return the size of the engine's cache on a GPU.

    The torch engine reserves whole sequences. vLLM hands out pages of what it is given, and cannot work with less
    than a sequence of full length.
    """
    sequence = (config.loop.max_context_tokens + 1) * cache_bytes_per_token(config, shape)
    if config.engine == "torch":
        return config.num_slots * sequence
    if config.vllm.kv_cache_bytes is not None:
        return max(sequence, config.vllm.kv_cache_bytes)
    taken = _engine_weights_bytes(config, shape) + _engine_working_bytes(config, shape)
    return max(sequence, config.vllm.gpu_memory_frac * gpu_bytes - taken)


def _engine_parts(config: TrainConfig, shape: ModelShape, gpu_bytes: float) -> list[MemoryPart]:
    kept = "rollout" if config.engine == "vllm" and config.vllm.sleep_between_rollouts else "always"
    # Ahead of the update, the engine works while the update does.
    worked = "always" if config.max_staleness_steps else "rollout"
    return [
        MemoryPart(f"{config.engine} engine: weights", _engine_weights_bytes(config, shape), kept),
        MemoryPart(f"{config.engine} engine: cache", cache_bytes(config, shape, gpu_bytes), kept),
        MemoryPart(f"{config.engine} engine: prefill and sampling", _engine_working_bytes(config, shape), worked),
    ]


def _engine_weights_bytes(config: TrainConfig, shape: ModelShape) -> float:
    return engine_bytes_per_number(config) * shape.num_parameters / config.ranks_per_engine


def _engine_working_bytes(config: TrainConfig, shape: ModelShape) -> float:
    width, slots, loop = engine_bytes_per_number(config), config.num_slots, config.loop
    sampling = slots * shape.vocab_size * SAMPLING_BYTES_PER_LOGIT
    per_token = width * (3 * shape.intermediate_size / config.ranks_per_engine + 4 * shape.hidden_size)
    if config.engine == "vllm":
        return config.vllm.max_batched_tokens * per_token + sampling + VLLM_GRAPHS_BYTES
    # The longest forward pass takes in an observation of every sequence at once, keys and values repeated per head.
    repeated = 2 * slots * loop.max_context_tokens * shape.query_size * width
    return slots * loop.max_observation_tokens * per_token + repeated + sampling
