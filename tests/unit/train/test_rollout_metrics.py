"""What is told about the episodes of a step, against numbers worked out by hand."""

import pytest

from components.contracts.episode import Action, Episode, SearchRecord, StopReason, Turn
from components.contracts.passage import Passage, ScoredPassage
from components.contracts.question import Question
from components.train.rollout_metrics import rollout_metrics

QUESTIONS = [
    Question(id=f"{name}:0", set_name=name, question="who?", golden_answers=("Mira", "M. Kalo"))
    for name in ("nq", "hotpotqa")
]
FOUND = [ScoredPassage(Passage("1", '"x"\nnothing'), 2.0), ScoredPassage(Passage("2", '"y"\nby MIRA of x'), 1.0)]
MISSED = [ScoredPassage(Passage("1", '"x"\nnothing'), 2.0)]


def episode(num_tokens: int, *searches: SearchRecord, answer: str = "x") -> Episode:
    made = Episode("q", list(range(2 + num_tokens)), 2, stop_reason=StopReason.ANSWERED)
    made.is_model_token[2:] = [True] * num_tokens
    made.turns, made.searches = [Turn(2, 2 + num_tokens, Action.ANSWER, answer)], list(searches)
    return made


def test_metrics_of_two_episodes():
    again = [SearchRecord("a", FOUND, 0.1), SearchRecord("a", FOUND, 0.1), SearchRecord("b", MISSED, 0.1)]
    strayed, right = episode(4, *again), episode(10, answer="the m kalo")
    strayed.turns.insert(0, Turn(2, 2, Action.INVALID, ""))
    metrics = rollout_metrics([strayed, right], [0.0, 1.0], QUESTIONS)
    assert metrics == pytest.approx(
        {
            "reward/mean": 0.5, "reward/std": 0.5, "reward/min": 0.0, "reward/max": 1.0,
            "reward/em": 0.5, "reward/format": 0.5,
            "reward/mean/nq": 0.0, "reward/mean/hotpotqa": 1.0,
            "rollout/num_searches/mean": 1.5, "rollout/num_searches/max": 3.0,
            "rollout/num_searches/mean/nq": 3.0, "rollout/num_searches/mean/hotpotqa": 0.0,
            "rollout/frac_no_search": 0.5, "rollout/frac_correct_without_search": 0.5,
            "response/tokens/mean": 7.0, "response/tokens/p95": 9.7, "response/tokens/max": 10.0,
            "context/tokens/max": 12.0, "valid_action_frac": 0.75, "stop/answered": 1.0,
            "search/hit_frac": 2 / 3, "search/duplicate_query_frac": 1 / 3,
        }
    )  # fmt: skip


def test_who_is_paid_for_the_format_alone_is_not_right():
    metrics = rollout_metrics([episode(4, answer="wrong")], [0.1], QUESTIONS[:1])
    assert (metrics["reward/mean"], metrics["reward/em"]) == (0.1, 0.0)
    assert metrics["rollout/frac_correct_without_search"] == 0.0


def test_who_never_answers_is_not_in_form_though_every_turn_is_valid():
    searching = episode(4)
    searching.turns = [Turn(2, 6, Action.SEARCH, "who?")]
    metrics = rollout_metrics([searching], [0.0], QUESTIONS[:1])
    assert (metrics["valid_action_frac"], metrics["reward/format"]) == (1.0, 0.0)


def test_a_failed_search_is_no_miss():
    failed = episode(4, SearchRecord("a", FOUND, 0.1), SearchRecord("b", [], 0.1, "no answer"))
    assert rollout_metrics([failed], [0.0], QUESTIONS[:1])["search/hit_frac"] == 1.0
    assert rollout_metrics([episode(4)], [0.0], QUESTIONS[:1])["search/hit_frac"] == 0.0
