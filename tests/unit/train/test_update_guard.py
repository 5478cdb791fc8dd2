"""Which updates are applied, and when there have been too many others."""

import json
import math

import pytest

from components.contracts.errors import TrainingStopped
from components.train.update_guard import MIN_HISTORY_UPDATES, WINDOW_UPDATES, UpdateGuard


def guard_after(norms, max_skipped=3) -> UpdateGuard:
    guard = UpdateGuard(max_jump=10.0, max_skipped=max_skipped, smallest_norm=0.005)
    assert all(guard.admits(norm, finite=True) for norm in norms)
    return guard


USUAL = [1.0] * MIN_HISTORY_UPDATES


@pytest.mark.parametrize(
    ("history", "norm", "finite", "admitted"),
    [
        pytest.param(USUAL, 1.0, True, True, id="usual"),
        pytest.param(USUAL, 9.9, True, True, id="below-ten-times"),
        pytest.param(USUAL, 10.1, True, False, id="above-ten-times"),
        pytest.param(USUAL, math.nan, True, False, id="norm-not-a-number"),
        pytest.param(USUAL, math.inf, True, False, id="norm-infinite"),
        pytest.param(USUAL, 1.0, False, False, id="loss-not-a-number"),
        pytest.param(USUAL[1:], 1e6, True, True, id="too-early-to-tell"),
        pytest.param([], math.nan, True, False, id="not-a-number-at-once"),
        pytest.param([*USUAL, 9.0, 9.0, 9.0], 11.0, True, False, id="median-not-mean"),
        pytest.param([0.0] * WINDOW_UPDATES, 1.0, True, True, id="first-signal-after-nothing"),
        pytest.param([1e-5] * WINDOW_UPDATES, 1.0, True, True, id="first-signal-after-rounding"),
        pytest.param([*USUAL, *[0.0] * WINDOW_UPDATES], 9.9, True, True, id="silence-does-not-lower-the-median"),
        pytest.param([*USUAL, *[0.0] * WINDOW_UPDATES], 10.1, True, False, id="nor-does-it-disarm-the-guard"),
        pytest.param([1.0] * WINDOW_UPDATES + [5.0] * WINDOW_UPDATES, 30.0, True, True, id="old-norms-are-forgotten"),
    ],
)
def test_which_updates_are_applied(history, norm, finite, admitted):
    guard = guard_after(history)
    assert guard.admits(norm, finite=finite) == admitted
    assert guard.skipped_in_a_row == (not admitted)


def test_skipped_norms_do_not_raise_the_median():
    guard = guard_after(USUAL, max_skipped=100)
    assert [guard.admits(11.0, finite=True) for _ in range(50)] == [False] * 50
    assert guard.admits(2.0, finite=True)
    assert guard.skipped_in_a_row == 0


@pytest.mark.parametrize("norm", [50.0, math.nan], ids=["exploding", "not-a-number"])
def test_too_many_in_a_row_stop_the_training_with_the_numbers_named(norm):
    guard = guard_after(USUAL, max_skipped=2)
    for expected in (1, 2):
        assert not guard.admits(norm, finite=True)
        assert guard.skipped_in_a_row == expected
    with pytest.raises(TrainingStopped, match=rf"^3 updates in a row .* 10 times .*last {norm:.3g}, usual 1\b"):
        guard.admits(norm, finite=True)


def test_state_survives_json_and_decides_alike():
    guard = guard_after([0.1 * n for n in range(1, 40)])
    guard.admits(math.nan, finite=True)
    other = UpdateGuard(max_jump=10.0, max_skipped=3, smallest_norm=0.005)
    other.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    assert other.skipped_in_a_row == 1
    assert other.state_dict() == guard.state_dict()
    assert [other.admits(n, finite=True) for n in (20.5, 19.5)] == [guard.admits(n, finite=True) for n in (20.5, 19.5)]
    other.load_state_dict({})
    assert other.admits(1e9, finite=True)
