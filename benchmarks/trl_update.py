"""TRL's side of the update comparison; runs in `.venv-trl` (make sets it up).

The tokens are given by a `rollout_func`; TRL pads and splits them, and they are used again in every step. The
clock runs from the beginning of an optimizer step to its end as the Trainer's callbacks see them: forward,
loss, backward, clipping, optimizer. Rollout, rewards, padding and logging are outside.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.sides import answers, requests
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

MAX_STEPS = 10_000


class _EnoughMeasured(Exception):
    pass


class ReplayTrainer(GRPOTrainer):
    """Trains on the first generated batch for ever."""

    def _prepare_inputs(self, generation_batch):
        if self._buffered_inputs is None:
            return super()._prepare_inputs(generation_batch)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]


class StepClock(TrainerCallback):
    """Lets a step begin when it is asked for and answers with its time; the first one is the warm-up."""

    def __init__(self, send: Callable[[dict[str, Any]], None], num_tokens: int) -> None:
        self._send, self._num_tokens = send, num_tokens
        self._requests: Iterator[int] = requests()
        self._started_s = self._seconds = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        """Wait until a step is wanted and start the clock."""
        if state.global_step and next(self._requests, None) is None:
            raise _EnoughMeasured
        self._started_s = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        self._seconds = time.perf_counter() - self._started_s

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Answer; the Trainer logs the gradient norm after every step."""
        if "grad_norm" in (logs or {}):
            self._send({"seconds": self._seconds, "tokens": self._num_tokens, "grad_norm": float(logs["grad_norm"])})


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    batch = Batch(**settings["batch"])
    model, tokenizer = model_of(batch)
    tokenizer.padding_side = "left"
    given = episodes_of(batch, len(tokenizer))

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list]:
        assert len(prompts) == len(given), (len(prompts), len(given))
        return {
            "prompt_ids": [one.prompt_ids for one in given],
            "completion_ids": [one.response_ids for one in given],
            "logprobs": None,
            "env_mask": [list(map(int, one.is_model_token)) for one in given],
        }

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl-"),
        use_cpu=True,
        bf16=False,
        fp16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        max_steps=MAX_STEPS,
        per_device_train_batch_size=batch.micro_batch_rows,
        gradient_accumulation_steps=batch.num_episodes // batch.micro_batch_rows,
        num_generations=GROUP,
        max_completion_length=batch.max_tokens,
        loss_type="dapo",
        beta=0.0,
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta2=BETA2,
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        gradient_checkpointing=False,
    )
    with answers() as send:
        clock = StepClock(send, sum(len(one.prompt_ids) + len(one.response_ids) for one in given))
        trainer = ReplayTrainer(
            model,
            reward_funcs=lambda completions, **_: [one.reward for one in given],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "?"}] * batch.num_episodes),
            processing_class=tokenizer,
            rollout_func=rollout,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        with contextlib.suppress(_EnoughMeasured):
            trainer.train()


if __name__ == "__main__":
    main()
