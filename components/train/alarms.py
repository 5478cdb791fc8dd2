"""Alarms: rules that end a training stretch before it ruins the model, or the training where going back is no help.

Every rank must pass the same numbers: they are reduced before they come here.
"""

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean

from components.contracts.errors import TrainingStopped
from components.train.checkpoint import TrainState
from components.train.config import CorrectionConfig, DevConfig

DROPS_TO_COLLAPSE = 2
INVALID_STEPS_TO_COLLAPSE = 3
TRUNCATED_STEPS_TO_COLLAPSE = 3
LOGPROB_DECLINES_TO_COLLAPSE = 4
MISMATCH_STEPS_TO_STOP = 3


def observe_dev(state: TrainState, dev_em: float, config: DevConfig) -> bool:
    """Record a dev evaluation in `state`; return whether it is the best so far (ties: the later one)."""
    state.em_curve.append([state.step, dev_em])
    if state.correct_logprobs:
        state.logprob_curve = [*state.logprob_curve, fmean(state.correct_logprobs)][-LOGPROB_DECLINES_TO_COLLAPSE - 1 :]
        state.correct_logprobs = []
    state.drops_in_a_row = state.drops_in_a_row + 1 if dev_em < state.best_dev_em - config.max_drop else 0
    if dev_em < state.best_dev_em:
        return False
    state.best_dev_em, state.best_step = dev_em, state.step
    return True


def observe_rollouts(state: TrainState, metrics: Mapping[str, float], config: DevConfig) -> None:
    """Record in `state` how valid, how whole and how likely the episodes of a training step were.

    A model that has not learned the format yet has nothing to collapse from: only a share that was once on the
    right side of its limit can cross it.
    """
    invalid = metrics["valid_action_frac"] < config.min_valid_action_frac
    state.was_valid = state.was_valid or not invalid
    state.invalid_in_a_row = state.invalid_in_a_row + 1 if invalid and state.was_valid else 0
    truncated = metrics["rollout/truncated_frac"] > config.max_truncated_frac
    state.was_whole = state.was_whole or not truncated
    state.truncated_in_a_row = state.truncated_in_a_row + 1 if truncated and state.was_whole else 0
    if "logprob/correct_mean" in metrics:
        state.correct_logprobs.append(metrics["logprob/correct_mean"])


def mismatch_limit(config: CorrectionConfig, staleness_steps: int) -> float:
    """Return how far engine and trainer may be apart: the limit for the engine, once more for each update between."""
    return config.max_mismatch_kl * (1 + staleness_steps)


def observe_mismatch(
    state: TrainState, mismatch_kl: float, config: CorrectionConfig, *, staleness_steps: int = 0
) -> None:
    """Record in `state` how far engine and trainer were apart in a training step; not a number is too far."""
    is_near = mismatch_kl <= mismatch_limit(config, staleness_steps)
    state.mismatch_in_a_row = 0 if is_near else state.mismatch_in_a_row + 1


def check_mismatch(state: TrainState, config: CorrectionConfig, *, staleness_steps: int = 0) -> None:
    """Stop a training whose engine samples from another policy than the one that is trained.

    Raises:
        TrainingStopped: the two were too far apart three steps in a row.
    """
    if state.mismatch_in_a_row >= MISMATCH_STEPS_TO_STOP:
        or_far = ", or single updates move the policy too far" if staleness_steps else ""
        raise TrainingStopped(
            f"engine/trainer: kl/rollout_vs_trainer was above {mismatch_limit(config, staleness_steps):g} for "
            f"{state.mismatch_in_a_row} steps, the last of them step {state.step}: the engine does not sample from the "
            "weights that are trained (not updated, a stale prefix cache, another precision or temperature), or its "
            f"log-probabilities are wrong{or_far}"
        )


def collapse_reason(state: TrainState, config: DevConfig) -> str:
    """Return why training should go back to its best weights, or "" while all is well."""
    if state.drops_in_a_row >= DROPS_TO_COLLAPSE:
        return f"dev EM fell to {state.em_curve[-1][1]:.3f} from its best {state.best_dev_em:.3f}"
    if state.invalid_in_a_row >= INVALID_STEPS_TO_COLLAPSE:
        return f"valid actions stayed rare for {state.invalid_in_a_row} steps"
    if state.truncated_in_a_row >= TRUNCATED_STEPS_TO_COLLAPSE:
        return f"episodes were cut off for {state.truncated_in_a_row} steps"
    curve = state.logprob_curve
    falling = len(curve) > LOGPROB_DECLINES_TO_COLLAPSE and all(b < a for a, b in pairwise(curve))
    if falling and curve[0] - curve[-1] > config.max_logprob_drop:
        return f"the log-probability of right episodes kept falling, from {curve[0]:.2f} to {curve[-1]:.2f}"
    return ""


def reset_alarms(state: TrainState) -> None:
    """Forget what led to a collapse; what has ever been good stays known."""
    state.drops_in_a_row = state.invalid_in_a_row = state.truncated_in_a_row = 0
    state.correct_logprobs, state.logprob_curve = [], []
