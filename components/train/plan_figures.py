"""What a training is expected to take: memory, tokens, FLOPs and time in one object."""

from dataclasses import dataclass
from typing import Any

from components.contracts.errors import ConfigError
from components.search.open import check_reachable
from components.train.combinations import check_combinations, check_heads, check_length
from components.train.config import TrainConfig
from components.train.cost import ModelShape
from components.train.plan_memory import (
    GIB,
    MemoryPart,
    checkpoint_bytes,
    host_bytes,
    memory_parts,
    num_gpus,
    peak_bytes,
    quantity_bytes,
)
from components.train.plan_time import (
    Assumptions,
    EpisodeLength,
    Gpu,
    Phase,
    expected_length,
    longest_length,
    network_gb_per_node,
    rollout_phases,
    step_phases,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a plan says; sizes in bytes per GPU, times in seconds."""

    config: TrainConfig
    shape: ModelShape
    gpu: Gpu
    assumed: Assumptions
    parts: list[MemoryPart]
    expected: EpisodeLength
    longest: EpisodeLength
    phases: list[Phase]
    longest_step_s: float
    dev_s: float

    @property
    def peak_bytes(self) -> float:
        """Bytes of a GPU when most are in use."""
        return peak_bytes(self.parts)

    @property
    def fits_gpu(self) -> bool:
        """Whether a GPU has that much memory."""
        return self.peak_bytes <= self.gpu.memory_gib * GIB

    @property
    def fits_pod(self) -> bool:
        """Whether a pod of a TrainJob gets the machine's memory it takes; of other machines nothing is known."""
        launch = self.config.launch
        return launch.backend != "trainjob" or self.host_bytes_per_node <= quantity_bytes(launch.memory)

    @property
    def fits(self) -> bool:
        """Whether the training has the memory it takes, as far as that is known."""
        return self.fits_gpu and self.fits_pod

    @property
    def host_bytes_per_node(self) -> float:
        """Bytes of a machine's memory that offloaded parts and a checkpoint being written take."""
        return host_bytes(self.parts) * self.config.parallel.gpus_per_node

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes of one checkpoint in the storage."""
        return checkpoint_bytes(self.config, self.shape)

    @property
    def num_episodes(self) -> int:
        """Episodes of a step."""
        return self.config.questions_per_step * self.config.episodes_per_question

    @property
    def step_s(self) -> float:
        """Seconds of an average step."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def num_dev_evaluations(self) -> int:
        """Evaluations of a run: before the first step, then every so many, and after the last."""
        return 1 + -(-self.config.steps // self.config.dev.every_steps)

    @property
    def run_hours(self) -> float:
        """Hours of all steps and evaluations."""
        return (self.config.steps * self.step_s + self.num_dev_evaluations * self.dev_s) / 3600

    @property
    def network_gb_per_node(self) -> float:
        """GB that a node exchanges with the others in a step."""
        return network_gb_per_node(self.config, self.shape, self.num_episodes * self.expected.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "fits": self.fits,
            "gpu": {"name": self.gpu.name, "memory_gib": self.gpu.memory_gib, "count": num_gpus(self.config)},
            "parameters": self.shape.num_parameters,
            "memory_gib": {
                part.name: {"gib": round(part.num_bytes / GIB, 3), "when": part.when, "on_host": part.on_host}
                for part in self.parts
            },
            "peak_gib": round(self.peak_bytes / GIB, 3),
            "checkpoint_gib": round(self.checkpoint_bytes / GIB, 3),
            "host_gib_per_node": round(self.host_bytes_per_node / GIB, 3),
            "episodes_per_step": self.num_episodes,
            "tokens_per_episode": {"expected": self.expected.tokens, "longest": self.longest.tokens},
            "tokens_per_step": self.num_episodes * self.expected.tokens,
            "flops_per_step": sum(phase.flops for phase in self.phases),
            "phases": {phase.name: {"flops": phase.flops, "seconds": phase.seconds} for phase in self.phases},
            "step_s": self.step_s,
            "longest_step_s": self.longest_step_s,
            "dev_s": self.dev_s,
            "run_hours": self.run_hours,
            "gpu_hours": self.run_hours * num_gpus(self.config),
            "network_gb_per_node_and_step": self.network_gb_per_node,
            "assumptions": self.assumed.model_dump(),
        }


def check_planned(config: TrainConfig) -> None:
    """Refuse what there is no plan for.

    Raises:
        ConfigError: the training uses no GPU, only imitates, or has settings that it would refuse itself.
    """
    check_combinations(config)
    check_reachable(config.search, config.parallel.num_nodes)
    if not num_gpus(config):
        raise ConfigError(
            "train.parallel.gpus_per_node = 0 trains on the CPU, and a plan is about GPUs",
            "1 or more",
            "set train.parallel.gpus_per_node, or choose another preset",
        )
    if config.is_supervised:
        raise ConfigError(f"train.algorithm = {config.algorithm!r} samples nothing", "ppo, grpo, reinforce_loo")


def make_plan(config: TrainConfig, shape: ModelShape, gpu: Gpu, assumed: Assumptions) -> Plan:
    """Return the plan of a training that `check_planned` does not refuse.

    Raises:
        ConfigError: prompts or turns do not fit their context, episodes the model's positions, or the model cannot be
            cut over the GPUs of an engine.
    """
    check_heads(config, shape.num_heads)
    check_length(config, "max_position_embeddings", shape.max_positions)
    loop = config.loop
    if loop.max_context_tokens - loop.max_turn_tokens < 1:
        raise ConfigError(
            f"train.loop.max_turn_tokens = {loop.max_turn_tokens} leaves no room for a prompt",
            f"less than train.loop.max_context_tokens = {loop.max_context_tokens}",
            "lower it, or raise train.loop.max_context_tokens",
        )
    if assumed.prompt_tokens + loop.max_turn_tokens > loop.max_context_tokens:
        raise ConfigError(
            f"--expect prompt_tokens={assumed.prompt_tokens:g} leaves no room for a turn",
            f"at most {loop.max_context_tokens - loop.max_turn_tokens}",
            "lower it, or raise train.loop.max_context_tokens",
        )
    expected, longest = expected_length(config, assumed), longest_length(config, assumed)
    dev = rollout_phases(config, shape, gpu, assumed, expected, config.dev.max_questions)
    return Plan(
        config,
        shape,
        gpu,
        assumed,
        memory_parts(config, shape, gpu.memory_gib * GIB),
        expected,
        longest,
        step_phases(config, shape, gpu, assumed, expected),
        sum(phase.seconds for phase in step_phases(config, shape, gpu, assumed, longest)),
        sum(phase.seconds for phase in dev),
    )
