"""Limits and wording of the search loop; stored with every checkpoint, so that every later use agrees with training."""

from typing import Literal

from pydantic import Field

from components.contracts.config import StepConfig


class LoopConfig(StepConfig):
    """One search loop for every use of a model (Search-R1, section 3)."""

    template: Literal["plain", "search-r1"] = "plain"
    """Wording of the prompt: `plain` is the question alone, `search-r1` explains the tags to an instructed model."""
    search_enabled: bool = True
    """False answers without a search engine (R1): a search tag is then an invalid action."""
    max_searches: int = Field(default=3, ge=0, le=64)
    """Turns in which a search is possible; one last turn that must answer follows."""
    top_k: int = Field(default=1, ge=1, le=100)
    """Passages shown for a query."""
    max_turn_tokens: int = Field(default=16, ge=2)
    """Tokens the model may write in a turn."""
    max_observation_tokens: int = Field(default=64, ge=8)
    """Tokens an observation may take, its tags included: passages are cut, tags never."""
    max_context_tokens: int = Field(default=384, ge=32)
    """Prompt, turns and observations together."""


EngineName = Literal["torch", "vllm"]


class VllmConfig(StepConfig):
    """How vLLM uses its device; read only where `engine = "vllm"`."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of weights and cache; `auto` is float32 on a CPU and bfloat16 on a GPU."""
    gpu_memory_frac: float = Field(default=0.45, gt=0, lt=1)
    """Share of the GPU for weights, activations and cache together; the rest is the trainer's."""
    kv_cache_bytes: int | None = Field(default=None, ge=1 << 20)
    """Size of the key-value cache; unset, it is what `gpu_memory_frac` leaves, and 1 GiB on a CPU."""
    max_batched_tokens: int = Field(default=8192, ge=32)
    """Tokens of one step, prefill and decode together."""
    tensor_parallel: Literal[1, 2, 4, 8] = 1
    """Neighbouring ranks of a node that share a model; 1, an engine per rank, is right up to 7B. In training, the first
    of them searches for all, and every step of the engine waits for the searches of the one before."""
    cuda_graph_tokens: int = Field(default=2048, ge=0)
    """Steps of up to so many tokens, prefill and decode together, are replayed as CUDA graphs, which are recorded while
    the engine is built; 0 does without: slower, ready sooner."""
    async_scheduling: bool = True
    """Plan a step of the engine while the GPU makes the one before. A turn that ends has then one token more under way,
    which is thrown away."""
    sleep_between_rollouts: bool = False
    """Give the engine's memory back during updates. Costs seconds a step: only where the trainer lacks the room."""
    max_probe_error_nats: float | None = Field(default=None, gt=0)
    """Mean difference of log-probabilities between engine and trainer at which published weights count as lost;
    unset, 1e-4 where both compute in float32 and 0.1 otherwise."""
