"""When training must go back, and which checkpoint is the best."""

import pytest

from components.train.alarms import collapse_reason, observe_dev, observe_rollouts
from components.train.checkpoint import TrainState
from components.train.config import DevConfig

CONFIG = DevConfig(max_drop=0.15, min_valid_action_frac=0.3)


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
    assert bool(collapse_reason(state)) == collapsed


def test_reason_names_the_numbers():
    state = TrainState(em_curve=[[9, 0.25]], best_dev_em=0.5, drops_in_a_row=2)
    assert "0.250" in collapse_reason(state)
    assert "0.500" in collapse_reason(state)


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
        observe_rollouts(state, share, CONFIG)
    assert bool(collapse_reason(state)) == collapsed
