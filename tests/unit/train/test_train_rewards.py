"""The reward sees the answer the model wrote, and only that."""

import pytest

from components.contracts.episode import Action, Episode, SearchRecord, Turn
from components.contracts.passage import Passage, ScoredPassage
from components.contracts.question import Question
from components.train.config import RewardConfig
from components.train.rewards import episode_reward, rewards

QUESTION = Question(id="nq:0", set_name="nq", question="who?", golden_answers=("Kalo Mira", "The"))


def episode(*turns: tuple[Action, str]) -> Episode:
    made = Episode("nq:0", [1, 2], 2, turns=[Turn(0, 0, action, text) for action, text in turns])
    gold = ScoredPassage(Passage("0", '"Kalo Mira"\n<answer>Kalo Mira</answer>'), 1.0)
    made.searches.append(SearchRecord("Kalo Mira", [gold], 0.0))
    return made


SEARCH, BAD = (Action.SEARCH, "Kalo Mira"), (Action.INVALID, "<answer>Kalo Mira")
HARDLY = [(Action.ANSWER, "mira" + " or so" * 8 + " maybe")]
"""Eighteen words, one of them right: F1 is .1."""


@pytest.mark.parametrize(
    ("turns", "settings", "expected"),
    [
        pytest.param([SEARCH, (Action.ANSWER, "kalo  mira.")], {}, 1.0, id="exact"),
        pytest.param([SEARCH, (Action.ANSWER, "mira")], {}, 0.0, id="wrong"),
        pytest.param([SEARCH, (Action.ANSWER, "")], {}, 0.0, id="empty"),
        pytest.param([SEARCH, (Action.ANSWER, "the")], {}, 0.0, id="nothing-but-an-article"),
        pytest.param([SEARCH, SEARCH], {}, 0.0, id="never-answers-although-the-passage-does"),
        pytest.param([BAD], {}, 0.0, id="unclosed-answer"),
        pytest.param([], {}, 0.0, id="no-turns"),
        pytest.param([(Action.ANSWER, "mira")], {"outcome": "f1"}, 2 / 3, id="f1"),
        pytest.param([(Action.ANSWER, "it is kalo mira")], {"outcome": "sub_em"}, 1.0, id="sub-em"),
        pytest.param([SEARCH, (Action.ANSWER, "mira")], {"format_reward": 0.2}, 0.2, id="format-of-a-wrong-answer"),
        pytest.param([BAD, (Action.ANSWER, "mira")], {"format_reward": 0.2}, 0.0, id="bad-format-earns-none"),
        pytest.param([BAD, (Action.ANSWER, "Kalo Mira")], {"format_reward": 0.2}, 1.0, id="right-in-bad-format"),
        pytest.param(HARDLY, {"outcome": "f1"}, 0.1, id="f1-of-a-long-answer"),
        pytest.param(HARDLY, {"outcome": "f1", "format_reward": 0.2}, 0.2, id="hardly-right-earns-no-less-than-wrong"),
        pytest.param(
            [BAD, *HARDLY], {"outcome": "f1", "format_reward": 0.2}, 0.1, id="hardly-right-in-bad-format-earns-its-f1"
        ),
        pytest.param([SEARCH, SEARCH], {"format_reward": 0.2}, 0.0, id="format-without-an-answer-earns-none"),
    ],
)
def test_reward(turns, settings, expected):
    assert episode_reward(episode(*turns), QUESTION, RewardConfig(**settings)) == pytest.approx(expected)


def test_one_reward_per_episode_in_order():
    right, wrong = episode((Action.ANSWER, "kalo mira")), episode((Action.ANSWER, "no"))
    assert rewards([wrong, right, wrong], [QUESTION] * 3, RewardConfig()) == [0.0, 1.0, 0.0]
