"""Our side of the update comparison: `python -m benchmarks.update_side '<settings>'`."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.sides import serve
from benchmarks.skewed_batch import (
    BETA2,
    CLIP_HIGH,
    CLIP_LOW,
    GROUP,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Batch,
    episodes_of,
    model_of,
)
from components.contracts.episode import Episode
from components.contracts.question import Question
from components.train.config import LossConfig, OptimizerConfig, ParallelConfig, TrainConfig
from components.train.experience import Experience, advantages_and_returns, gather_experience
from components.train.learner import Learner, Targets
from components.train.model import in_flat_order


def prepare(settings: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Return the measurement of one optimizer update on a whole batch."""
    torch.set_num_threads(settings["threads"])
    batch = Batch(**settings["batch"])
    model, tokenizer = model_of(batch)
    experience = _experience(batch, len(tokenizer))
    longest = max(len(sequence.token_ids) for sequence in experience.sequences)
    config = TrainConfig(
        algorithm="grpo",
        episodes_per_question=GROUP,
        minibatches=1,
        row_tokens=batch.row_tokens or longest,
        micro_batch_rows=batch.micro_batch_rows,
        parallel=ParallelConfig(cpu_ranks=settings.get("ranks", 1)),
        loss=LossConfig(kl_coefficient=0.0, clip_low=CLIP_LOW, clip_high=CLIP_HIGH),
        policy_optimizer=OptimizerConfig(
            learning_rate=LEARNING_RATE, warmup_steps=0, beta2=BETA2, max_grad_norm=MAX_GRAD_NORM
        ),
    )
    learner = Learner(model, config, tokenizer.pad_token_id)
    targets = _targets(learner, experience)
    num_tokens = sum(len(sequence.token_ids) for sequence in experience.sequences)

    def measure(repeat: int) -> dict[str, Any]:
        started_s = time.perf_counter()
        metrics = learner.update(experience, targets, step=0)
        seconds = time.perf_counter() - started_s
        return {"seconds": seconds, "tokens": num_tokens, "grad_norm": metrics["grad_norm"]}

    return measure


def _experience(batch: Batch, vocabulary: int) -> Experience:
    given = episodes_of(batch, vocabulary)
    episodes, questions = [], []
    for number, one in enumerate(given):
        ids, name = one.prompt_ids + one.response_ids, f"q{number // GROUP}"
        mask = [False] * len(one.prompt_ids) + one.is_model_token
        episodes.append(Episode(name, ids, len(one.prompt_ids), mask, [0.0] * len(ids)))
        questions.append(Question(id=name, question="?", golden_answers=["?"], set_name="nq"))
    return gather_experience(episodes, questions, [one.reward for one in given], mask_retrieved=True)


def _targets(learner: Learner, experience: Experience) -> Targets:
    """Return on-policy targets: the old log-probabilities are those of the weights."""
    count, temperature = experience.num_tokens, learner.config.temperature
    old_M = in_flat_order(learner.rows(experience), lambda rows: learner.scorer(rows, temperature)[0], count)
    nothing = np.zeros(count)
    advantages_M, returns_M, keep_M = advantages_and_returns(experience, nothing, nothing, learner.config)
    as_tensor = [torch.from_numpy(np.ascontiguousarray(x)).float() for x in (advantages_M, returns_M)]
    return Targets(old_M, torch.zeros(count), old_M, *as_tensor, torch.from_numpy(keep_M.copy()))


if __name__ == "__main__":
    serve(prepare)
