"""When training must go back, and which checkpoint is the best."""

import pytest

from components.contracts.errors import TrainingStopped
from components.train.alarms import (
    check_mismatch,
    collapse_reason,
    observe_dev,
    observe_mismatch,
    observe_rollouts,
    reset_alarms,
)
from components.train.checkpoint import TrainState
from components.train.config import CorrectionConfig, DevConfig

CONFIG = DevConfig(max_drop=0.15, min_valid_action_frac=0.3, max_truncated_frac=0.4, max_logprob_drop=0.3)


@pytest.mark.parametrize(
    ("curve", "best_step", "collapsed"),
    [
        pytest.param([0.1, 0.2, 0.3], 2, False, id="rising"),
        pytest.param([0.3, 0.3, 0.3], 2, False, id="ties-go-to-the-later"),
        pytest.param([0.0], 0, False, id="first-is-best-even-at-zero"),
        pytest.param([0.5, 0.36, 0.36, 0.36], 0, False, id="drop-within-bounds"),
        pytest.param([0.5, 0.3], 0, False, id="one-bad-evaluation"),
        pytest.param([0.5, 0.3, 0.4, 0.3], 0, False, id="bad-ones-not-in-a-row"),
        pytest.param([0.5, 0.3, 0.3], 0, True, id="two-in-a-row"),
        pytest.param([0.5, 0.34, 0.0], 0, True, id="sinking"),
    ],
)
def test_dev_curve(curve, best_step, collapsed):
    state = TrainState()
    for step, dev_em in enumerate(curve):
        state.step = step
        is_best = observe_dev(state, dev_em, CONFIG)
        assert is_best == (state.best_step == step)
    assert state.em_curve == [[step, dev_em] for step, dev_em in enumerate(curve)]
    assert (state.best_step, state.best_dev_em) == (best_step, max(curve))
    assert bool(collapse_reason(state, CONFIG)) == collapsed


def observed(**metrics: float) -> dict[str, float]:
    """Metrics of a healthy step, but for `metrics`."""
    return {"valid_action_frac": 1.0, "rollout/truncated_frac": 0.0} | metrics


def test_reason_names_the_numbers():
    state = TrainState(em_curve=[[9, 0.25]], best_dev_em=0.5, drops_in_a_row=2)
    assert "0.250" in collapse_reason(state, CONFIG)
    assert "0.500" in collapse_reason(state, CONFIG)


@pytest.mark.parametrize(
    ("shares", "collapsed"),
    [
        pytest.param([0.9, 0.1, 0.1], False, id="two-steps-below"),
        pytest.param([0.9, 0.1, 0.1, 0.1], True, id="three-steps-below"),
        pytest.param([0.9, 0.1, 0.1, 0.5, 0.1, 0.1], False, id="recovered-between"),
        pytest.param([0.3] * 5, False, id="at-the-limit"),
        pytest.param([0.1] * 9, False, id="never-above"),
    ],
)
def test_rare_valid_actions(shares, collapsed):
    state = TrainState(em_curve=[[0, 0.1]])
    for share in shares:
        observe_rollouts(state, observed(valid_action_frac=share), CONFIG)
    assert bool(collapse_reason(state, CONFIG)) == collapsed


@pytest.mark.parametrize(
    ("shares", "collapsed"),
    [
        pytest.param([0.1, 0.9, 0.9], False, id="two-steps-above"),
        pytest.param([0.1, 0.9, 0.9, 0.9], True, id="three-steps-above"),
        pytest.param([0.1, 0.9, 0.9, 0.2, 0.9, 0.9], False, id="recovered-between"),
        pytest.param([0.4] * 5, False, id="at-the-limit"),
        pytest.param([0.9] * 9, False, id="never-below"),
    ],
)
def test_episodes_that_are_cut_off(shares, collapsed):
    state = TrainState(em_curve=[[0, 0.1]])
    for share in shares:
        observe_rollouts(state, observed(**{"rollout/truncated_frac": share}), CONFIG)
    assert bool(collapse_reason(state, CONFIG)) == collapsed


@pytest.mark.parametrize(
    ("curve", "collapsed"),
    [
        pytest.param([-0.2, -0.3, -0.4, -0.5, -0.6], True, id="falls-at-each-of-four"),
        pytest.param([-0.2, -0.3, -0.4, -0.5], False, id="falls-at-three"),
        pytest.param([-0.2, -0.3, -0.4, -0.3, -0.6], False, id="rose-between"),
        pytest.param([-0.2, -0.3, -0.3, -0.5, -0.6], False, id="stood-still-between"),
        pytest.param([-0.2, -0.25, -0.3, -0.35, -0.4], False, id="falls-by-too-little"),
        pytest.param([-0.1, -0.05, -0.2, -0.3, -0.4, -0.5], True, id="falls-at-the-latest-four"),
        pytest.param([-0.6, -0.5, -0.4, -0.3, -0.2], False, id="rising"),
    ],
)
def test_falling_likelihood_of_right_episodes(curve, collapsed):
    """Two steps between evaluations: what counts is their mean. EM never moves: nothing else would notice."""
    state = TrainState()
    for step, mean in enumerate(curve):
        for logprob in (mean - 0.4, mean + 0.4):
            observe_rollouts(state, observed(**{"logprob/correct_mean": logprob}), CONFIG)
        state.step = step
        observe_dev(state, 0.5, CONFIG)
    assert bool(collapse_reason(state, CONFIG)) == collapsed


def test_steps_without_a_right_episode_say_nothing_about_likelihood():
    state = TrainState()
    for step in range(9):
        state.step = step
        observe_rollouts(state, observed(), CONFIG)
        observe_dev(state, 0.0, CONFIG)
    assert state.logprob_curve == []
    assert not collapse_reason(state, CONFIG)


def test_reset_forgets_every_reason():
    reasons = [
        {"drops_in_a_row": 2},
        {"invalid_in_a_row": 3},
        {"truncated_in_a_row": 3},
        {"logprob_curve": [0.0, -1.0, -2.0, -3.0, -4.0]},
    ]
    for reason in reasons:
        state = TrainState(em_curve=[[0, 0.1]], **reason)
        assert collapse_reason(state, CONFIG)
        reset_alarms(state)
        assert not collapse_reason(state, CONFIG)


def test_reset_forgets_the_likelihood_of_the_collapsed_weights_and_keeps_what_was_once_good():
    state = TrainState()
    for metrics in ({}, {"valid_action_frac": 0.1}, {"rollout/truncated_frac": 0.9}):
        observe_rollouts(state, observed(**{"logprob/correct_mean": -9.0}, **metrics), CONFIG)
    reset_alarms(state)
    for _ in range(3):
        assert not collapse_reason(state, CONFIG)
        observe_rollouts(state, observed(**{"logprob/correct_mean": -0.5, "valid_action_frac": 0.1}), CONFIG)
    assert collapse_reason(state, CONFIG)
    observe_dev(state, 0.5, CONFIG)
    assert state.logprob_curve == [-0.5]


@pytest.mark.parametrize(
    ("divergences", "stops"),
    [
        pytest.param([0.06, 0.06], False, id="two-steps-above"),
        pytest.param([0.06, 0.06, 0.06], True, id="three-steps-above"),
        pytest.param([0.06, 0.06, 0.01, 0.06, 0.06], False, id="recovered-between"),
        pytest.param([0.05] * 9, False, id="at-the-limit"),
        pytest.param([float("nan")] * 3, True, id="not-a-number"),
        pytest.param([float("inf")] * 3, True, id="infinite"),
    ],
)
def test_engine_and_trainer_apart(divergences, stops):
    state, config = TrainState(step=7), CorrectionConfig(max_mismatch_kl=0.05)
    for divergence in divergences:
        observe_mismatch(state, divergence, config)
    if not stops:
        check_mismatch(state, config)
        return
    with pytest.raises(TrainingStopped, match=r"^engine/trainer: .* above 0.05 for 3 steps, the last of them step 7"):
        check_mismatch(state, config)
