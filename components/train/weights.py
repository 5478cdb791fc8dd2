"""Gives the engine what the learner has learnt, and checks that it arrived."""

from collections.abc import Sequence
from typing import Any

import torch

from components.agent.engines.open import probe_tolerance_nats
from components.agent.engines.protocol import TrainedEngine
from components.agent.engines.publishing import check_weights, probe_ids
from components.train.learner import Learner
from components.train.packing import EpisodeTokens, pack
from components.train.sharding import release, whole_parameters


def publish_weights(engine: TrainedEngine, learner: Learner, tokenizer: Any) -> dict[str, float]:
    """Publish the policy's weights and return the error of vLLM's probe as a metric; a collective.

    The torch engine shares the policy's module or copies tensors itself, and is not probed.

    Raises:
        EngineError: the engine's log-probabilities are not the learner's.
    """
    config = learner.config
    engine.publish(whole_parameters(learner.policy))
    if config.engine == "torch":
        return {}
    token_ids = probe_ids(tokenizer, config.loop.max_context_tokens)
    tolerance_nats = probe_tolerance_nats(
        config.vllm,
        on_cpu=learner.device.type == "cpu",
        trained_in_float32=config.parallel.compute_dtype == "float32",
    )
    error_nats = check_weights(engine, token_ids, lambda ids: own_logprobs(learner, ids), tolerance_nats)
    return {"engine/probe_error_nats": error_nats}


@torch.no_grad()
def own_logprobs(learner: Learner, token_ids: Sequence[int]) -> list[float]:
    """Return the policy's log-probability of each token but the first at temperature 1, computed as in training.

    Every rank computes its own engine's text; the policy's shards are gathered for all of them.
    """
    config, trained = learner.config, list(range(1, len(token_ids)))
    sequences = [EpisodeTokens(list(token_ids), trained)]
    (rows,) = pack(
        sequences, config.row_tokens, config.micro_batch_rows, learner.pad_id, learner.device, rank=0, world_size=1
    )
    logprobs_M = torch.empty(len(trained))
    logprobs_M[rows.order_M] = learner.scorer(rows, 1.0)[0].float().cpu()
    release(learner.scorer)
    return logprobs_M.tolist()
