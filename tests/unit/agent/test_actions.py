"""The first complete pair of a turn decides; everything else is text."""

import pytest

from components.agent.actions import parse_action
from components.contracts.episode import Action

SEARCH, ANSWER, INVALID = Action.SEARCH, Action.ANSWER, Action.INVALID


@pytest.mark.parametrize(
    ("text", "action", "content"),
    [
        pytest.param("<search>kalo mira</search>", SEARCH, "kalo mira", id="search"),
        pytest.param("<answer>kalo mira</answer>", ANSWER, "kalo mira", id="answer"),
        pytest.param("<think>hm</think> <search>\n a b \n</search>", SEARCH, "a b", id="thinks-first-and-is-stripped"),
        pytest.param("<search>two\nlines</search>", SEARCH, "two\nlines", id="query-over-lines"),
        pytest.param("<answer>A</answer> so <search>q</search>", ANSWER, "A", id="answer-before-search"),
        pytest.param("<search>q</search> so <answer>A</answer>", SEARCH, "q", id="search-before-answer"),
        pytest.param("<answer>first</answer><answer>second</answer>", ANSWER, "first", id="two-answers"),
        pytest.param("<answer></answer>", ANSWER, "", id="empty-answer-is-an-answer"),
        pytest.param("<answer> \n </answer>", ANSWER, "", id="blank-answer-is-an-answer"),
        pytest.param("<answer>Paris <search>q</search>", SEARCH, "q", id="unclosed-answer-is-text"),
        pytest.param("<search>q <answer>A</answer>", ANSWER, "A", id="unclosed-search-is-text"),
        pytest.param("<search><answer>A</answer></search>", SEARCH, "<answer>A</answer>", id="nested-outer-decides"),
        pytest.param("<think><answer>A</answer></think>", ANSWER, "A", id="answer-while-thinking"),
        pytest.param("</answer><answer>A</answer>", ANSWER, "A", id="stray-closing-tag"),
        pytest.param("x</search>", INVALID, None, id="closing-tag-alone"),
        pytest.param("<answer>Paris", INVALID, None, id="cut-off"),
        pytest.param("<search>Paris</answer>", INVALID, None, id="tags-that-do-not-match"),
        pytest.param("<search></search>", INVALID, None, id="empty-query"),
        pytest.param("<search> \t\n</search>", INVALID, None, id="blank-query"),
        pytest.param("<search></search><answer>A</answer>", INVALID, None, id="first-pair-decides-even-when-invalid"),
        pytest.param("<Search>q</Search>", INVALID, None, id="other-case"),
        pytest.param("< search>q</search>", INVALID, None, id="blank-in-tag"),
        pytest.param("<information>Paris</information>", INVALID, None, id="invented-information"),
        pytest.param("(answer)Paris(/answer)", INVALID, None, id="neutralised-tags"),
        pytest.param("", INVALID, None, id="nothing"),
    ],
)
def test_first_pair_decides(text, action, content):
    assert parse_action(text, search_enabled=True) == (action, text if content is None else content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("<search>q</search>", INVALID, id="search"),
        pytest.param("<answer>A</answer>", ANSWER, id="answer"),
        pytest.param("<search>q</search><answer>A</answer>", INVALID, id="search-first"),
    ],
)
def test_search_is_no_action_where_search_is_off(text, expected):
    assert parse_action(text, search_enabled=False)[0] is expected


def test_long_hostile_turn_is_read_at_once():
    assert parse_action("<answer>" * 500 + "<search>" * 500, search_enabled=True)[0] is INVALID
