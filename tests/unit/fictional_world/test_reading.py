"""What the base model may see before it is trained to search: nothing about tests, and nothing purposeful."""

import random
import re
from collections import Counter
from itertools import islice, pairwise

import pytest

from components.agent.config import LoopConfig
from components.base_model.transcripts import RowStream
from components.fictional_world.names import is_test_name
from components.fictional_world.questions import (
    WorldQuestion,
    bridge_questions,
    described,
    noun_question,
    training_questions,
)
from components.fictional_world.reading import readings, training_world, walks
from components.fictional_world.relations import HELD_OUT_PAIRS, RELATIONS, composable_pairs
from components.fictional_world.tiny_model import build_tokenizer

BY_NAME = {relation.name: relation for relation in RELATIONS}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["search or answer"])


@pytest.fixture(scope="module")
def world():
    return training_world(random.Random(3))


@pytest.mark.parametrize("seed", range(3))
def test_no_test_name_is_ever_pretrained_on(seed, tokenizer, find_names):
    stream, seen = RowStream(LoopConfig(), tokenizer, 0.5, f"seed {seed}"), set()
    for _ in range(4):
        for row in stream.take(120, two_hop_frac=0.5, max_distractors=2):
            seen |= find_names(tokenizer.decode(row.token_ids))
    assert len(seen) > 250
    assert [name for name in sorted(seen) if is_test_name(name)] == []


def test_equal_seeds_give_equal_rows(tokenizer):
    streams = [RowStream(LoopConfig(), tokenizer, 0.5, seed) for seed in ("a", "a", "b")]
    rows = [[row.token_ids for row in stream.take(20, 0.5, 2)] for stream in streams]
    assert rows[0] == rows[1] != rows[2]


def test_reading_is_right_and_its_documents_are_shown(world):
    for reading in islice(readings(world, 0.5, 2, random.Random(0)), 300):
        shown = dict(reading.documents)
        assert all(world.documents[title] == text for title, text in shown.items())
        for question, answer in ((reading.question, reading.answer), *reading.more):
            subject = next(name for name in world.entities if name in question)
            assert subject in shown
            assert any(answer in text for text in shown.values())
        assert reading.answer not in reading.question


def test_readings_hold_no_tag(world, tokenizer):
    stream = RowStream(LoopConfig(), tokenizer, 0.0, "readings")
    text = "".join(tokenizer.decode(row.token_ids) for row in stream.take(100, 0.5, 2))
    assert not any(tag in text for tag in ("<search", "</search", "<answer", "</answer", "<information", "<think"))


def wordings_of(inner: str, outer: str) -> str:
    """A pattern that finds a two-hop question over a pair of relations, in any wording."""
    name = r"(the \w+ )?\w+ \w+"
    middle = f"({BY_NAME[inner].clause.format(s=name)}|the {inner} of {name})"
    outers = (
        f"is the {outer} of {middle}",
        f"is {BY_NAME[outer].clause.format(s=middle)}",
        f"{middle} has which {outer}",
    )
    return "|".join([*(rf"{text}\?" for text in outers), BY_NAME[outer].trivia.format(s=middle).replace("?", r"\?")])


@pytest.mark.parametrize("walk_frac", [0.0, 1.0], ids=["readings", "walks"])
def test_held_out_relation_pairs_are_never_pretrained_on(walk_frac, tokenizer):
    stream = RowStream(LoopConfig(), tokenizer, walk_frac, "held out")
    text = "".join(tokenizer.decode(row.token_ids) for _ in range(4) for row in stream.take(150, 1.0, 0))
    composable = {(inner.name, outer.name) for inner, outer in composable_pairs()}
    found = {pair for pair in composable if re.search(wordings_of(*pair), text)}
    assert len(found) > 25
    assert not found & HELD_OUT_PAIRS


def test_walk_depends_on_the_names_in_the_question_and_on_nothing_else(world):
    """Asked about other relations of the same subject, or the same one through another, the walk stays the same."""
    subject = next(entity for entity in world.entities.values() if len(entity.facts) == 3)
    wordings = [noun_question(BY_NAME[name], described(subject)) for name in subject.facts]
    for a, b in pairwise(subject.facts):
        wordings += bridge_questions(BY_NAME[a], BY_NAME[b], described(subject))
    walked = []
    for text in wordings:
        question = WorldQuestion("nq", "single", text, "never looked at", (subject.name,))
        walked.append([(w.searches, w.answer) for w in islice(walks(world, [question], random.Random(5)), 200)])
    assert len(walked) == 11
    assert all(walk == walked[0] for walk in walked)


def drawn(world, kind: str, count: int = 6_000):
    questions = [q for q in training_questions(world, random.Random(1)) if q.kind == kind]
    by_text = {question.question: question for question in questions}
    assert len(by_text) == len(questions)
    return [(walk, by_text[walk.question]) for walk in islice(walks(world, questions, random.Random(2)), count)]


@pytest.mark.parametrize(("kind", "most"), [("single", 0.2), ("bridge", 0.05)])
def test_walks_answer_right_no_more_often_than_chance(world, kind, most):
    """Chance: the answer is the first title (40 %) or one of the names in view, each equally likely."""
    right, expected = 0, 0.0
    for walk, question in drawn(world, kind):
        shown = " ".join([question.question, *(f"{title} {text}" for _, title, text in walk.searches)])
        in_view = {name for name in world.entities if name in shown}
        right += walk.answer == question.answer
        blind = (question.answer in in_view) / len(in_view)
        repeated = walk.searches[0][1] == question.answer if walk.searches else blind
        expected += 0.6 * blind + 0.4 * repeated
        assert walk.answer in in_view
    assert right == pytest.approx(expected, abs=4 * expected**0.5)
    assert right / 6_000 < most


def test_walks_search_blindly(world):
    counts = Counter(len(walk.searches) for walk, _ in drawn(world, "single"))
    shares = [counts[n] / 6_000 for n in range(4)]
    assert shares == pytest.approx([0.15, 0.255, 0.1785, 0.4165], abs=0.03)


def test_queries_prefer_no_name_in_view(world):
    """The second query repeats the subject, takes the gold entity or another fact's, all at the same rate."""
    ratios = []
    for walk, question in drawn(world, "single"):
        subject = question.entities[0]
        queries = [query for query, _, _ in walk.searches]
        others = set(world.entities[subject].facts.values()) - {question.answer}
        if len(queries) > 1 and queries[0] == subject and others:
            ratios.append((queries[1] == question.answer, sum(queries[1] == name for name in others) / len(others)))
    gold, other = (sum(column) / len(ratios) for column in zip(*ratios, strict=True))
    assert len(ratios) > 500
    assert gold == pytest.approx(other, abs=0.05)


def test_retrieved_documents_are_real_and_share_a_word_with_the_query(world):
    for walk, _ in drawn(world, "single", 500):
        for query, title, text in walk.searches:
            assert world.documents[title] == text
            sharing = [name for name in world.documents if set(query.split()) & set(name.split())]
            assert title in (sharing or world.documents)
