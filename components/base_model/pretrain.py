"""Pretrains the tiny base model on readings and uninformed walks; nobody shows it a good search.

Legend: B rows, T tokens, V vocabulary.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from components.agent.config import LoopConfig
from components.agent.prompt import TEMPLATES
from components.base_model.config import RecipeConfig
from components.base_model.transcripts import Row, RowStream
from components.fictional_world.tiny_model import build_model, build_tokenizer


@dataclass(slots=True)
class Progress:
    """Where pretraining stands: passed to `report` every `REPORT_EVERY_STEPS` steps."""

    step: int
    loss: float
    reading_accuracy: float
    walk_accuracy: float
    tokens: int
    seconds: float


REPORT_EVERY_STEPS = 100


def learning_rate_at(step: int, recipe: RecipeConfig) -> float:
    """Return the rate of `step`: linear warm-up, then a cosine down to 2 % of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(recipe: RecipeConfig, loop: LoopConfig, folder: Path, report: Callable[[Progress], None]) -> None:
    """Train from nothing and save model and tokenizer in the Hugging Face layout under `folder`.

    The same recipe gives the same weights on the same machine and thread count.
    """
    logging.disable_progress_bar()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    template = TEMPLATES[loop.template]
    tokenizer = build_tokenizer([template.with_search.replace("{question}", ""), template.invalid_notice, "answer"])
    model = build_model(
        len(tokenizer),
        recipe.hidden_size,
        recipe.num_layers,
        recipe.intermediate_size,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    stream = RowStream(loop, tokenizer, recipe.walk_frac, f"pretrain {recipe.seed}")
    started, tokens = time.monotonic(), 0
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe)
        two_hop = recipe.two_hop_frac if step >= recipe.two_hop_from_frac * recipe.steps else 0.0
        distractors = recipe.max_distractors if step >= recipe.distractors_from_frac * recipe.steps else 0
        rows = stream.take(recipe.rows_per_step, two_hop, distractors)
        loss = _train_on(model, rows, tokenizer.pad_token_id)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(row.token_ids) for row in rows)
        if (step + 1) % REPORT_EVERY_STEPS == 0 or step + 1 == recipe.steps:
            reading, copying = _accuracies(
                model, rows, tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<search>")
            )
            model.save_pretrained(folder, safe_serialization=True)
            report(Progress(step + 1, loss, reading, copying, tokens, time.monotonic() - started))
    tokenizer.save_pretrained(folder)


def _train_on(model, rows: list[Row], pad_id: int, num_buckets: int = 8) -> float:
    """Backpropagate the weighted loss of `rows`, bucketed by length to avoid padding; return its value."""
    total_weight = sum(sum(row.weights[1:]) for row in rows)
    ordered, loss_value = sorted(rows, key=lambda row: len(row.token_ids)), 0.0
    size = math.ceil(len(ordered) / num_buckets)
    for start in range(0, len(ordered), size):
        ids_BT, weights_BT = _batch(ordered[start : start + size], pad_id)
        # bfloat16 halves the time on processors that have it; the master weights stay float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_BTV = model(input_ids=ids_BT).logits[:, :-1].float()
        losses_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
        loss = (losses_BT * weights_BT[:, 1:]).sum() / total_weight
        loss.backward()
        loss_value += loss.item()
    return loss_value


def _batch(rows: list[Row], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(row.token_ids) for row in rows)
    ids = [row.token_ids + [pad_id] * (longest - len(row.token_ids)) for row in rows]
    weights = [row.weights + [0.0] * (longest - len(row.weights)) for row in rows]
    return torch.tensor(ids), torch.tensor(weights)


@torch.no_grad()
def _accuracies(model, rows: list[Row], pad_id: int, search_id: int) -> tuple[float, float]:
    """Return the share of reading-answer tokens and of walk tokens predicted; blindness bounds the latter."""
    ids_BT, weights_BT = _batch(rows, pad_id)
    right_BT = model(input_ids=ids_BT).logits[:, :-1].argmax(-1) == ids_BT[:, 1:]
    trained_BT = weights_BT[:, 1:] == 1.0
    is_walk_B = (ids_BT == search_id).any(1)
    shares = []
    for chosen_B in (~is_walk_B, is_walk_B):
        counted_BT = trained_BT & chosen_B[:, None]
        shares.append((right_BT & counted_BT).sum().item() / max(1, counted_BT.sum().item()))
    return shares[0], shares[1]
