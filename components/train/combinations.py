"""Settings of a training that are each right and cannot be combined."""

from typing import Any

from components.contracts.errors import ConfigError
from components.train.config import TrainConfig


def check_combinations(config: TrainConfig) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: that is so.
    """
    _check_comparisons(config)
    _check_device(config)
    _check_groups(config)
    _check_ahead(config)


def check_heads(config: TrainConfig, num_heads: int) -> None:
    """Refuse a model whose attention cannot be cut over a group.

    Raises:
        ConfigError: the group does not divide its `num_heads` attention heads.
    """
    size = config.ranks_per_engine
    if num_heads % size:
        raise ConfigError(
            f"train.vllm.tensor_parallel = {size}, but the model has {num_heads} attention heads",
            f"a divisor of {num_heads}",
            f"set train.vllm.tensor_parallel = {_largest_below(size, num_heads)}",
        )


def check_attention(config: TrainConfig, model_config: Any) -> None:
    """Refuse a model whose attention or logits packed training would compute in another way than its engine.

    `model_config` is Hugging Face's; what a family does not have is not among its attributes.

    Raises:
        ConfigError: episodes may be longer than the model's positions or its sliding window, or it bends its logits.
    """
    for name in ("max_position_embeddings", "sliding_window"):
        check_length(config, name, getattr(model_config, name, None))
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model_config, name, None):
            raise ConfigError(
                f"the model's config has {name}, which training does not compute",
                "a model of the families qwen2, qwen3 or llama",
                'set base_model.source, for example to "hf://Qwen/Qwen2.5-3B"',
            )


def check_length(config: TrainConfig, name: str, limit: int | None) -> None:
    """Refuse a model that sees no further than `limit` tokens, by `name` of its config, where there is a limit.

    Raises:
        ConfigError: episodes may be longer.
    """
    longest = config.loop.max_context_tokens
    if limit and limit < longest:
        raise ConfigError(
            f"train.loop.max_context_tokens = {longest}, but the model's {name} is {limit}",
            f"at most {limit}",
            f"set train.loop.max_context_tokens = {limit}, or take another model",
        )


def _check_comparisons(config: TrainConfig) -> None:
    if config.algorithm in ("grpo", "reinforce_loo") and config.episodes_per_question < 2:
        raise ConfigError(
            f"train.algorithm = {config.algorithm!r} compares episodes of one question, but "
            f"train.episodes_per_question = {config.episodes_per_question}",
            "2 or more",
            "set train.episodes_per_question, for example to 5",
        )
    if config.loss.likelihood_guard_coefficient and config.minibatches < 2:
        raise ConfigError(
            "train.loss.likelihood_guard_coefficient compares an update with those before it, but "
            f"train.minibatches = {config.minibatches}",
            "2 or more minibatches, or a coefficient of 0",
            "set train.minibatches, for example to 4",
        )


def _check_device(config: TrainConfig) -> None:
    parallel = config.parallel
    if parallel.compute_dtype == "bfloat16" and not parallel.gpus_per_node and parallel.num_ranks == 1:
        raise ConfigError(
            "train.parallel.compute_dtype = 'bfloat16' is that of shards, but one rank on a CPU shards nothing",
            "compute_dtype = 'float32', or several ranks or a GPU",
            "set train.parallel.compute_dtype = 'float32'",
        )


def _check_groups(config: TrainConfig) -> None:
    size, per_node = config.ranks_per_engine, config.parallel.ranks_per_node
    if per_node % size:
        raise ConfigError(
            f"train.vllm.tensor_parallel = {size} neighbours share an engine, but a node has {per_node} ranks "
            "(train.parallel)",
            f"a divisor of {per_node}",
            f"set train.vllm.tensor_parallel = {_largest_below(size, per_node)}, or change train.parallel",
        )
    if size > 1 and config.parallel.share_rollouts == "stealing":
        raise ConfigError(
            "train.parallel.share_rollouts = 'stealing' gives every rank turns of its own, but with "
            f"train.vllm.tensor_parallel = {size} neighbours play the same ones",
            "'fixed', or tensor_parallel = 1",
            "set train.parallel.share_rollouts = 'fixed'",
        )


def _largest_below(size: int, divided: int) -> int:
    return max(n for n in (1, 2, 4) if n < size and divided % n == 0)


def _check_ahead(config: TrainConfig) -> None:
    if not config.max_staleness_steps:
        return
    ahead = "train.max_staleness_steps = 1 samples with weights that are one step old"
    if config.correction.mode != "decoupled":
        raise ConfigError(
            f"{ahead}, but train.correction.mode = {config.correction.mode!r} takes their log-probabilities for those "
            "of the policy that is trained",
            "correction.mode = 'decoupled', or max_staleness_steps = 0",
            "set train.correction.mode = 'decoupled'",
        )
    if config.engine == "vllm" and config.vllm.sleep_between_rollouts:
        raise ConfigError(
            f"{ahead} beside the update, but with train.vllm.sleep_between_rollouts the engine has no memory then",
            "one of the two",
            "set train.vllm.sleep_between_rollouts = false, or train.max_staleness_steps = 0",
        )
    if config.ranks_per_engine > 1:
        raise ConfigError(
            f"{ahead} beside the update, and the collectives of train.vllm.tensor_parallel = "
            f"{config.ranks_per_engine} would meet those of the update in no fixed order",
            "tensor_parallel = 1, or max_staleness_steps = 0",
            "set train.vllm.tensor_parallel = 1",
        )
