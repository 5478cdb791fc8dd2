"""Void turns, cut-off episodes, and what is told about them."""

import pytest

from components.agent.config import LoopConfig
from components.contracts.episode import Action, Episode, SearchRecord, StopReason, Turn
from components.contracts.question import Question
from components.train.config import TrainConfig
from components.train.episode_health import (
    has_void_turn,
    health_metrics,
    in_policy_loss,
    is_truncated,
    search_metrics,
)

LOOP = LoopConfig(max_turn_tokens=8, max_context_tokens=32)
QUESTION = Question(id="nq:0", set_name="nq", question="who?", golden_answers=("mira",))
SEARCH, ANSWER, VOID = Action.SEARCH, Action.ANSWER, Action.INVALID


def episode(stop: StopReason, *turns: tuple[int, int, Action], answer="mira", latencies_s=()) -> Episode:
    """`turns` are (start, end, action); sampled tokens have log-probability -start."""
    made = Episode("nq:0", list(range(32)), 2, stop_reason=stop)
    for start, end, action in turns:
        made.turns.append(Turn(start, end, action, answer))
        for position in range(start, end):
            made.is_model_token[position], made.logprobs[position] = True, -float(start)
    made.searches = [SearchRecord("x", [], latency_s) for latency_s in latencies_s]
    return made


ANSWERED, NO_ANSWER, FULL = StopReason.ANSWERED, StopReason.NO_ANSWER, StopReason.CONTEXT_FULL


@pytest.mark.parametrize(
    ("stop", "turns", "void", "truncated"),
    [
        pytest.param(ANSWERED, [(2, 6, SEARCH), (9, 14, ANSWER)], False, False, id="answered"),
        pytest.param(ANSWERED, [(2, 6, VOID), (9, 14, ANSWER)], True, False, id="answered-after-a-void-turn"),
        pytest.param(ANSWERED, [(2, 10, ANSWER)], False, False, id="answered-with-the-last-token"),
        pytest.param(NO_ANSWER, [(2, 6, SEARCH), (9, 17, VOID)], True, True, id="last-turn-cut-off"),
        pytest.param(NO_ANSWER, [(2, 6, SEARCH), (9, 14, VOID)], True, False, id="last-turn-said-nothing"),
        pytest.param(NO_ANSWER, [(2, 6, SEARCH), (9, 17, SEARCH)], False, False, id="out-of-turns"),
        pytest.param(NO_ANSWER, [(2, 10, VOID), (20, 24, SEARCH)], True, False, id="first-turn-cut-off"),
        pytest.param(NO_ANSWER, [(2, 6, SEARCH), (27, 32, VOID)], True, True, id="last-turn-met-the-end-of-context"),
        pytest.param(FULL, [(2, 6, SEARCH)], False, True, id="no-room-for-the-passages"),
        pytest.param(StopReason.SEARCH_FAILED, [(2, 6, SEARCH)], False, False, id="search-failed"),
        pytest.param(NO_ANSWER, [], False, False, id="no-turns"),
    ],
)
def test_health_of_one_episode(stop, turns, void, truncated):
    made = episode(stop, *turns)
    assert (has_void_turn(made), is_truncated(made, LOOP)) == (void, truncated)


WHOLE = episode(ANSWERED, (2, 6, SEARCH), (9, 14, ANSWER), latencies_s=(0.2, 0.4))
VOIDED = episode(ANSWERED, (2, 6, VOID), (9, 14, ANSWER))
CUT = episode(FULL, (2, 6, SEARCH), latencies_s=(0.3,))
BOTH = episode(NO_ANSWER, (2, 10, VOID))
WRONG = episode(ANSWERED, (2, 5, ANSWER), answer="kalo")


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        pytest.param({}, [True, True, True, True], id="defaults"),
        pytest.param({"mask_void_turns": True}, [True, False, True, False], id="void"),
        pytest.param({"mask_truncated": True}, [True, True, False, False], id="truncated"),
        pytest.param({"mask_void_turns": True, "mask_truncated": True}, [True, False, False, False], id="both"),
    ],
)
def test_who_is_in_the_policy_loss(loss, expected):
    config = TrainConfig.parse({"loss": loss, "loop": LOOP.model_dump()})
    assert in_policy_loss([WHOLE, VOIDED, CUT, BOTH], config).tolist() == expected


def test_health_metrics_are_shares_and_means():
    episodes = [WHOLE, VOIDED, CUT, BOTH, WRONG]
    metrics = health_metrics(episodes, [QUESTION] * 5, LOOP)
    assert metrics == pytest.approx(
        {
            "rollout/void_turn_frac": 2 / 5,
            "rollout/truncated_frac": 2 / 5,
            "rollout/em/searched": 1 / 2,
            "rollout/em/not_searched": 1 / 3,
            # Two right episodes with 4 tokens at -2 and 5 at -9 each.
            "logprob/correct_mean": -(4 * 2 + 5 * 9) / 9,
        }
    )


def test_means_over_nothing_are_left_out():
    metrics = health_metrics([WRONG], [QUESTION], LOOP)
    assert "rollout/em/searched" not in metrics
    assert "logprob/correct_mean" not in metrics


def test_search_metrics():
    failed = episode(StopReason.SEARCH_FAILED, (2, 6, SEARCH))
    failed.searches = [SearchRecord("x", [], 1.1, "no answer within 1 s")]
    metrics = search_metrics([WHOLE, CUT, failed, WRONG])
    assert metrics["search/failed_frac"] == 0.25
    assert metrics["time/search_s/mean"] == pytest.approx(0.5)
    assert 0.4 < metrics["time/search_s/p95"] < 1.1
    assert set(search_metrics([WRONG]).values()) == {0.0}
