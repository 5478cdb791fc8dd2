"""What both sides of the update comparison train on: given episodes of very different lengths, rewards, weights.

It runs in our environment and in the peer's.
"""

import random
from dataclasses import dataclass
from typing import Any

from benchmarks.search_world import BUNDLED_MODEL, SHAPES, rambling
from components.agent.engines.load import load_model

SEED = 11
PROMPT_TOKENS = (18, 30)
TURN_TOKENS, OBSERVATION_TOKENS = 24, 32
"""A response takes turns between what the model wrote and what it was shown."""
LEARNING_RATE = 1e-12
"""So small that every repeat meets the same weights; the optimizer does its work all the same."""
BETA2, MAX_GRAD_NORM, CLIP_LOW, CLIP_HIGH = 0.99, 0.5, 0.2, 0.28
GROUP = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """One case: the same for both sides of it."""

    model: str
    num_episodes: int
    median_tokens: int
    """Of a response; lengths are log-normal."""
    sigma: float
    """Standard deviation of the logarithm of the lengths; 0 makes all of them equal."""
    max_tokens: int
    micro_batch_rows: int
    """Rows in a forward and backward pass."""
    row_tokens: int = 0
    """Length of a packed row; 0 is the longest episode, as wide as a padded row of the peer."""


@dataclass(frozen=True, slots=True)
class GivenEpisode:
    """A prompt, a response whose tokens partly come from the model, and a reward."""

    prompt_ids: list[int]
    response_ids: list[int]
    is_model_token: list[bool]
    reward: float


def episodes_of(batch: Batch, vocabulary: int) -> list[GivenEpisode]:
    """Return the episodes of a case; groups of `GROUP` share a prompt."""
    rng, given = random.Random(SEED), []
    for number in range(batch.num_episodes):
        if number % GROUP == 0:
            prompt = [rng.randrange(1, vocabulary) for _ in range(rng.randint(*PROMPT_TOKENS))]
        wanted = round(batch.median_tokens * rng.lognormvariate(0.0, batch.sigma))
        length = min(max(wanted, 4), batch.max_tokens)
        period = TURN_TOKENS + OBSERVATION_TOKENS
        mask = [position % period < TURN_TOKENS for position in range(length)]
        response = [rng.randrange(1, vocabulary) for _ in range(length)]
        given.append(GivenEpisode(prompt, response, mask, rng.random()))
    return given


def model_of(batch: Batch) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a case, in training mode."""
    model, tokenizer = load_model(BUNDLED_MODEL, "cpu")
    if batch.model != "bundled":
        model = rambling(model.config, tokenizer, *SHAPES[batch.model])
    return model.train(), tokenizer
