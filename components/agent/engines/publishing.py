"""Brings a trainer's weights to its engine and proves that they arrived.

A sync that silently skips weights, or a prefix cache that still answers with the former ones, costs a run
without any error. The proof is a probe after every publish: the engine's log-probabilities of a fixed text,
and of what it generates after it through its cache, against the trainer's own. Means are compared: in float32 they
agree to some 1e-6 nats, so that any update shows, while single tokens of a sharp model are off by 1e-4 whoever
computes them. A bfloat16 engine rounds its weights; there the probe finds lost updates only once they add up to
more than that rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from components.agent.engines.protocol import TrainedEngine, TurnRequest
from components.contracts.errors import EngineError

PROBE_TOKENS = 96
"""Long enough to fill blocks of the prefix cache, whose reset the probe checks too."""
GENERATED_TOKENS = 8
PROBE_SEQUENCE = -1
"""Sequence id of the probe; episodes count from 0."""
_TEXT = (
    "A weight that was not copied looks like a weight that was. Read this sentence with the old numbers and with the "
    "new ones: only if both say the same about every word has the engine learnt what the trainer knows. "
)


def probe_ids(tokenizer: Any, max_context_tokens: int) -> list[int]:
    """Return the ids of the fixed text: `PROBE_TOKENS`, or as many as leave the engine room to generate."""
    length = min(PROBE_TOKENS, max_context_tokens - GENERATED_TOKENS)
    ids = tokenizer.encode(_TEXT, add_special_tokens=False)
    return (ids * -(-length // len(ids)))[:length]


def check_weights(
    engine: TrainedEngine,
    token_ids: Sequence[int],
    trainer_logprobs: Callable[[Sequence[int]], Sequence[float]],
    max_error_nats: float,
) -> float:
    """Return the mean difference between engine and trainer on `token_ids` and what the engine says after them.

    `trainer_logprobs` returns the log-probability of each token but the first at temperature 1.

    Raises:
        EngineError: the difference exceeds `max_error_nats`, or is not a number.
    """
    engine.add_request(TurnRequest(PROBE_SEQUENCE, token_ids, GENERATED_TOKENS, 0.0, 0, ()))
    turns = []
    while engine.has_unfinished():
        turns += engine.step()
    engine.release(PROBE_SEQUENCE)
    (turn,) = turns
    whole = [*token_ids, *turn.token_ids]
    expected = np.asarray(trainer_logprobs(whole))
    errors = {
        "scored": np.abs(np.asarray(engine.score(whole)) - expected).mean(),
        "generated": np.abs(np.asarray(turn.logprobs) - expected[-len(turn.logprobs) :]).mean(),
    }
    for kind, error in errors.items():
        # Written so that NaN fails.
        if not error <= max_error_nats:
            cause = "weights did not arrive" if kind == "scored" else "its cache still holds the former weights"
            raise EngineError(
                f"after publishing weights the engine's log-probabilities of {kind} tokens differ from the trainer's "
                f"by {error:.2g} nats on average, at most {max_error_nats:.2g} are allowed: {cause}"
            )
    return float(max(errors.values()))
