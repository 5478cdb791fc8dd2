"""Which passages hold an answer: against a slow search over every window of words."""

import random

import pytest

from components.contracts.answer import normalize_answer
from components.contracts.question import Question
from components.inspect.answers import AnswersSought, holds_answer, normalized_answers, open_answers


def question(*answers: str) -> Question:
    return Question(id="s:0", set_name="s", question="Who?", golden_answers=answers)


def slow_holds(contents: str, answer: str) -> bool:
    words, sought = normalize_answer(contents).split(), answer.split()
    return any(words[i : i + len(sought)] == sought for i in range(len(words)))


@pytest.mark.parametrize(
    ("contents", "answer", "holds"),
    [
        pytest.param('"Port Marl"\nThe harbour of Port Marl.', "port marl", True, id="title-and-text"),
        pytest.param("The harbour of Port-Marl.", "port marl", False, id="hyphen-joins-words"),
        pytest.param("He was born in 1974.", "1974", True, id="number"),
        pytest.param("It cost 19745 crowns.", "1974", False, id="part-of-a-word"),
        pytest.param("Gone with a wind", "gone with wind", True, id="article-dropped"),
        pytest.param("Wilhelm Röntgen", "wilhelm röntgen", True, id="unicode"),
        pytest.param("", "x", False, id="empty-passage"),
    ],
)
def test_an_answer_is_found_as_whole_words(contents, answer, holds):
    assert holds_answer(contents, [answer]) is holds
    sought = AnswersSought([answer])
    sought.look_in(contents)
    assert (sought.found == {answer}) is holds


def test_the_walk_agrees_with_the_slow_search():
    rng = random.Random(5)
    letters = "pqrst"
    passages = [" ".join(rng.choices(letters, k=rng.randint(0, 12))) for _ in range(60)]
    answers = {" ".join(rng.choices(letters, k=rng.randint(1, 5))) for _ in range(300)}
    sought = AnswersSought(answers)
    for passage in passages:
        sought.look_in(passage)
    assert sought.found == {answer for answer in answers if any(slow_holds(text, answer) for text in passages)}
    assert 0 < len(sought.found) < len(answers)
    for passage in passages:
        assert holds_answer(passage, answers) == any(slow_holds(passage, answer) for answer in answers)


@pytest.mark.parametrize(
    ("answers", "can_be_found", "can_be_matched"),
    [
        pytest.param(["Yes"], set(), {"yes"}, id="yes"),
        pytest.param(["no.", "No"], set(), {"no"}, id="no"),
        pytest.param(["yes", "Marl"], {"yes", "marl"}, {"yes", "marl"}, id="more-than-yes"),
        pytest.param(["The", "!"], set(), set(), id="nothing-left"),
        pytest.param(["The Quill", "Quill"], {"quill"}, {"quill"}, id="aliases-that-are-one"),
    ],
)
def test_answers_that_a_passage_can_hold(answers, can_be_found, can_be_matched):
    assert open_answers(question(*answers)) == can_be_found
    assert normalized_answers(question(*answers)) == can_be_matched
