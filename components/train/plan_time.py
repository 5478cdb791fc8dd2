"""FLOPs and seconds of a training step, phase by phase, at stated shares of what the hardware can do."""

from dataclasses import dataclass

from pydantic import Field

from components.contracts.config import StepConfig
from components.train.config import TrainConfig
from components.train.cost import (
    ModelShape,
    backbone_flops,
    causal_pairs,
    decode_roof_tokens_per_s,
    forward_flops,
    head_flops,
)
from components.train.plan_memory import (
    FLOAT32_BYTES,
    GIB,
    bytes_per_number,
    cache_bytes,
    cache_bytes_per_token,
    engine_bytes_per_number,
    micro_batch_tokens,
    num_gpus,
    trained_modules,
)

ADAMW_BYTES_PER_PARAMETER = 28
"""Weight, gradient and two moments read; weight and moments written; float32."""


class Assumptions(StepConfig):
    """What the configuration does not say: how long episodes get and how much of the hardware is used."""

    prompt_tokens: float = Field(default=200.0, gt=0)
    """Prompt with its chat template."""
    search_frac: float = Field(default=0.75, ge=0, le=1)
    """Searches of an episode, as a share of the most it may make."""
    turn_frac: float = Field(default=0.25, gt=0, le=1)
    """Tokens the model writes in a turn, as a share of the most it may write."""
    observation_frac: float = Field(default=0.8, gt=0, le=1)
    """Tokens of an observation, as a share of the most it may take."""
    mfu: float = Field(default=0.35, gt=0, le=1)
    """Share of the peak that forward and backward passes reach: compiled updates of 3 B 0.36 on an H200 with
    activations computed again, and 0.46 without."""
    decode_roof_frac: float = Field(default=0.1, gt=0, le=1)
    """Share of the decode roof that the engine reaches. vLLM on an H200: 0.14 to 0.17 with all slots busy (1.5 B); a
    rollout of 256 episodes, all begun at once, took the time of its prefill and of decoding at 0.09 (1.5 B) or 0.13
    (3 B), since ever fewer are left. The torch engine: 0.03."""
    host_gb_per_s: float = Field(default=100.0, gt=0)
    """Memory bandwidth of a machine, for optimizers that work there."""
    bus_gb_per_s: float = Field(default=5.0, gt=0)
    """Transfer between a machine's memory and one GPU, adding up gradients there included: what an offloaded update of
    1.5 B in three rows took on a machine with an H200. The bus alone has five times that."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The data sheet of a GPU: memory that programs can use, peaks without sparsity."""

    name: str
    memory_gib: float
    bfloat16_tflops: float
    float32_tflops: float
    bandwidth_tb_per_s: float

    def flops_per_s(self, dtype: str) -> float:
        """Return the peak of matrix products in `dtype`."""
        return 1e12 * (self.bfloat16_tflops if dtype == "bfloat16" else self.float32_tflops)


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 39.4, 312, 19.5, 1.555),
        Gpu("l40s", 44.4, 362, 91.6, 0.864),
        Gpu("h100", 79.1, 989, 67, 3.35),
        Gpu("a100-80", 79.1, 312, 19.5, 2.039),
        Gpu("h20", 95.0, 148, 44, 4.0),
        Gpu("h200", 139.8, 989, 67, 4.8),
        Gpu("b200", 178.4, 2250, 75, 7.7),
    )
}
"""By name, in the order of their memory."""


@dataclass(frozen=True, slots=True)
class EpisodeLength:
    """Tokens of an episode: prompt, turns, and an observation between two turns."""

    prompt_tokens: float
    searches: float
    turn_tokens: float
    observation_tokens: float
    max_tokens: int

    @property
    def model_tokens(self) -> float:
        """Tokens the model writes, which are the trained ones; an episode cut at its bound loses both kinds alike."""
        whole = self.prompt_tokens + self._written + self._observed
        kept = (self.tokens - self.prompt_tokens) / (whole - self.prompt_tokens)
        return self._written * kept

    @property
    def tokens(self) -> float:
        """All tokens of the episode."""
        return min(self.max_tokens, self.prompt_tokens + self._written + self._observed)

    @property
    def mean_context_tokens(self) -> float:
        """Context in which a token is written, averaged over the written tokens."""
        before = self.searches / 2 * (self.turn_tokens + self.observation_tokens)
        return min(self.max_tokens, self.prompt_tokens + before + self.turn_tokens / 2)

    @property
    def _written(self) -> float:
        return (self.searches + 1) * self.turn_tokens

    @property
    def _observed(self) -> float:
        return self.searches * self.observation_tokens


def expected_length(config: TrainConfig, assumed: Assumptions) -> EpisodeLength:
    """Return the length of an average episode."""
    loop = config.loop
    return EpisodeLength(
        assumed.prompt_tokens,
        loop.max_searches * assumed.search_frac * loop.search_enabled,
        loop.max_turn_tokens * assumed.turn_frac,
        loop.max_observation_tokens * assumed.observation_frac,
        loop.max_context_tokens,
    )


def longest_length(config: TrainConfig, assumed: Assumptions) -> EpisodeLength:
    """Return the length of an episode that uses everything it may."""
    everything = {"search_frac": 1.0, "turn_frac": 1.0, "observation_frac": 1.0}
    return expected_length(config, assumed.model_copy(update=everything))


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a step: FLOPs of all GPUs together, and seconds."""

    name: str
    flops: float
    seconds: float


def step_phases(
    config: TrainConfig, shape: ModelShape, gpu: Gpu, assumed: Assumptions, length: EpisodeLength
) -> list[Phase]:
    """Return the phases of one step in their order, none of them overlapping another."""
    num_episodes = config.questions_per_step * config.episodes_per_question
    lengths = [length.tokens] * num_episodes
    trained = num_episodes * (
        length.model_tokens if config.loss.mask_retrieved_tokens else length.tokens - length.prompt_tokens
    )
    backbone = backbone_flops(shape, sum(lengths), causal_pairs(lengths))
    head = head_flops(shape, trained)
    recomputed = backbone * config.parallel.activation_checkpointing
    work = {}
    if _scores_old(config):
        work["old log-probabilities"] = backbone + head
    if config.algorithm == "ppo":
        work["values"] = backbone
    if config.loss.kl_coefficient:
        work["reference log-probabilities"] = backbone + head
    # The head is always computed a second time in the backward pass.
    work["policy update"] = 3 * backbone + recomputed + 4 * head
    if config.algorithm == "ppo":
        work["critic update"] = 3 * backbone + recomputed
    rate = num_gpus(config) * gpu.flops_per_s(config.parallel.compute_dtype) * assumed.mfu
    phases = rollout_phases(config, shape, gpu, assumed, length, num_episodes)
    phases += [Phase(name, flops, flops / rate) for name, flops in work.items()]
    phases.append(Phase("optimizers", 0.0, _optimizers_s(config, shape, gpu, assumed)))
    if config.parallel.cpu_offload:
        phases.append(Phase("offload transfers", 0.0, _transfers_s(config, shape, assumed, sum(lengths))))
    return phases


def rollout_phases(
    config: TrainConfig,
    shape: ModelShape,
    gpu: Gpu,
    assumed: Assumptions,
    length: EpisodeLength,
    num_episodes: int,
) -> list[Phase]:
    """Return what sampling `num_episodes` takes; every token is computed once, the cache survives the searches.

    An engine on several GPUs has the bandwidth of all of them; what these tell each other for a token is not counted.
    """
    dtype = config.parallel.compute_dtype
    written = num_episodes * length.model_tokens
    total = forward_flops(shape, [length.tokens] * num_episodes, written)
    decode = backbone_flops(shape, written, written * length.mean_context_tokens) + head_flops(shape, written)
    prefill = max(0.0, total - decode)
    width = engine_bytes_per_number(config)
    held = cache_bytes(config, shape, gpu.memory_gib * GIB) / (length.tokens * cache_bytes_per_token(config, shape))
    per_engine = config.ranks_per_engine
    num_engines = num_gpus(config) / per_engine
    roof = decode_roof_tokens_per_s(
        shape,
        min(config.num_slots, held, max(1.0, num_episodes / num_engines)),
        length.mean_context_tokens,
        bytes_per_s=per_engine * gpu.bandwidth_tb_per_s * 1e12,
        flops_per_s=per_engine * gpu.flops_per_s(dtype),
        bytes_per_number=width,
    )
    prefill_s = prefill / (num_gpus(config) * gpu.flops_per_s(dtype) * assumed.mfu)
    decode_s = written / (num_engines * roof * assumed.decode_roof_frac)
    return [Phase("rollout: prefill", prefill, prefill_s), Phase("rollout: decode", decode, decode_s)]


def network_gb_per_node(config: TrainConfig, shape: ModelShape, num_tokens: float) -> float:
    """Return what a node receives in a step to gather weights and to reduce gradients, in GB."""
    width, nodes = bytes_per_number(config), config.parallel.num_nodes
    trained, scored = _passes(config, shape)
    moved = (2 * width + FLOAT32_BYTES) * trained + width * scored
    return _micro_batches(config, num_tokens) * moved * (nodes - 1) / nodes / 1e9


def _passes(config: TrainConfig, shape: ModelShape) -> tuple[int, int]:
    """Return the parameters that go (forward and backward, forward only)."""
    reference = shape.num_parameters * (config.loss.kl_coefficient > 0)
    values = shape.critic_parameters * (config.algorithm == "ppo")
    old = shape.num_parameters * _scores_old(config)
    return sum(trained_modules(config, shape).values()), reference + values + old


def _scores_old(config: TrainConfig) -> bool:
    """Return whether the old log-probabilities take a forward pass: the engine's do not, nor does a lone update."""
    decoupled = config.correction.mode == "decoupled" and config.minibatches > 1
    return decoupled or not config.loss.mask_retrieved_tokens


def _micro_batches(config: TrainConfig, num_tokens: float) -> float:
    return max(config.minibatches, num_tokens / num_gpus(config) / micro_batch_tokens(config))


def _optimizers_s(config: TrainConfig, shape: ModelShape, gpu: Gpu, assumed: Assumptions) -> float:
    moved = sum(trained_modules(config, shape).values()) * ADAMW_BYTES_PER_PARAMETER * config.minibatches
    if config.parallel.cpu_offload:
        return moved / config.parallel.num_nodes / (assumed.host_gb_per_s * 1e9)
    return moved / num_gpus(config) / (gpu.bandwidth_tb_per_s * 1e12)


def _transfers_s(config: TrainConfig, shape: ModelShape, assumed: Assumptions, num_tokens: float) -> float:
    """Return the time of the bus: weights for the forward and the backward pass, gradients back, for every row."""
    trained, scored = _passes(config, shape)
    moved = FLOAT32_BYTES * (3 * trained + scored) / num_gpus(config)
    return _micro_batches(config, num_tokens) * moved / (assumed.bus_gb_per_s * 1e9)
