"""Collapse alarms: rules that end a training stretch before it ruins the model."""

from components.train.checkpoint import TrainState
from components.train.config import DevConfig

DROPS_TO_COLLAPSE = 2
INVALID_STEPS_TO_COLLAPSE = 3


def observe_dev(state: TrainState, dev_em: float, config: DevConfig) -> bool:
    """Record a dev evaluation in `state`; return whether it is the best so far (ties: the later one)."""
    state.em_curve.append([state.step, dev_em])
    state.drops_in_a_row = state.drops_in_a_row + 1 if dev_em < state.best_dev_em - config.max_drop else 0
    if dev_em < state.best_dev_em:
        return False
    state.best_dev_em, state.best_step = dev_em, state.step
    return True


def observe_rollouts(state: TrainState, valid_action_frac: float, config: DevConfig) -> None:
    """Record the share of valid actions of a training step in `state`.

    A model that has not learned the format yet has nothing to collapse from: only a share that was once
    above the limit can fall below it.
    """
    below = valid_action_frac < config.min_valid_action_frac
    state.was_valid = state.was_valid or not below
    state.invalid_in_a_row = state.invalid_in_a_row + 1 if below and state.was_valid else 0


def collapse_reason(state: TrainState) -> str:
    """Return why training should go back to its best weights, or "" while all is well."""
    if state.drops_in_a_row >= DROPS_TO_COLLAPSE:
        return f"dev EM fell to {state.em_curve[-1][1]:.3f} from its best {state.best_dev_em:.3f}"
    if state.invalid_in_a_row >= INVALID_STEPS_TO_COLLAPSE:
        return f"valid actions stayed rare for {state.invalid_in_a_row} steps"
    return ""
