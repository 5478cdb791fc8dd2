"""Scores against the vectors measured on Search-R1's reward file, and a slow F1."""

import random
import re
import string

import pytest

from components.contracts.answer import exact_match, f1, normalize_answer, sub_exact_match


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        pytest.param("it's", "its", id="apostrophe deleted without a space"),
        pytest.param("U.S.A.", "usa", id="initials join"),
        pytest.param("2,000", "2000", id="thousands separator"),
        pytest.param("The  Beatles\n", "beatles", id="article and white space"),
        pytest.param("an A-a the", "aa", id="punctuation goes before articles"),
        pytest.param("theatre", "theatre", id="article inside a word stays"),
        pytest.param("Café", "café", id="no Unicode folding"),
        pytest.param("“x”", "“x”", id="typographic quotes are not ASCII punctuation"),
        pytest.param(" .?! the ", "", id="nothing left"),
    ],
)
def test_normalize_answer(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "golden", "em", "sub_em"),
    [
        pytest.param("Paris", ["paris"], 1.0, 1.0, id="case"),
        pytest.param("the Paris.", ["London", "Paris"], 1.0, 1.0, id="any alias"),
        pytest.param("in Paris today", ["Paris"], 0.0, 1.0, id="contained"),
        pytest.param("Par", ["Paris"], 0.0, 0.0, id="the alias must be inside the prediction"),
        pytest.param("", ["Paris"], 0.0, 0.0, id="empty"),
        pytest.param("", ["The"], 0.0, 0.0, id="empty does not equal an article"),
        pytest.param("The", ["The"], 0.0, 0.0, id="empty after normalisation"),
        pytest.param("x", ["The"], 0.0, 0.0, id="an alias of nothing is in no prediction"),
        pytest.param("x", [], 0.0, 0.0, id="no gold"),
    ],
)
def test_exact_match(prediction: str, golden: list[str], em: float, sub_em: float) -> None:
    assert (exact_match(prediction, golden), sub_exact_match(prediction, golden)) == (em, sub_em)


@pytest.mark.parametrize(
    ("prediction", "golden", "expected"),
    [
        pytest.param("Barack Hussein Obama", ["Barack Obama"], 0.8, id="precision 2/3, recall 1"),
        pytest.param("Obama", ["Smith", "Barack Obama"], 2 / 3, id="best alias"),
        pytest.param("b b b", ["b c"], 0.4, id="repeated words count once"),
        pytest.param("yes it is", ["yes"], 0.0, id="no partial credit for yes"),
        pytest.param("yes", ["yes it is"], 0.0, id="nor for yes where the alias says more"),
        pytest.param("no one", ["no"], 0.0, id="no partial credit for no"),
        pytest.param("noanswer here", ["noanswer"], 0.0, id="no partial credit for noanswer"),
        pytest.param("yes", ["no way", "Yes!"], 1.0, id="yes equals yes"),
        pytest.param("", ["The"], 0.0, id="empty"),
        pytest.param("x", [], 0.0, id="no gold"),
    ],
)
def test_f1(prediction: str, golden: list[str], expected: float) -> None:
    assert f1(prediction, golden) == pytest.approx(expected)


def slow_f1(prediction: str, gold: str) -> float:
    def words(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    left, right = words(prediction), words(gold)
    shared = 0
    for word in words(prediction):
        if word in right:
            right.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(left), shared / len(words(gold))
    return 2 * precision * recall / (precision + recall)


def test_f1_equals_the_slow_one() -> None:
    draw = random.Random(7)
    vocabulary = ["red", "Blue", "the", "green,", "a", "x", "9.5"]
    for _ in range(300):
        one, other = (" ".join(draw.choices(vocabulary, k=draw.randint(0, 6))) for _ in range(2))
        assert f1(one, [other]) == pytest.approx(slow_f1(one, other))
