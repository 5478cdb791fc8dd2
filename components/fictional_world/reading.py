"""Text for pretraining the tiny base model: what it may see before reinforcement learning.

Two sorts, both drawn from fresh worlds named from the training split only:

* reading comprehension without tags: a question, documents, the answer;
* walks: names drawn blindly from what is in view, the raw material of uninformed transcripts.

Neither shows a purposeful search: a walk's queries and its answer are random.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from components.fictional_world.names import draw_names, first_words, is_test_name, last_words
from components.fictional_world.questions import (
    WorldQuestion,
    bridge_questions,
    chain_question,
    clause_question,
    compositional_question,
    described,
    hops,
    not_held_out,
    noun_question,
    terse_question,
    trivia_question,
)
from components.fictional_world.relations import RELATIONS
from components.fictional_world.world import Entity, World, build_world

_RELATION = {relation.name: relation for relation in RELATIONS}


@dataclass(frozen=True, slots=True)
class Reading:
    """A question, the titled documents shown with it, its answer, and more questions about the same documents."""

    question: str
    documents: tuple[tuple[str, str], ...]
    """(title, text) in the order shown."""
    answer: str
    more: tuple[tuple[str, str], ...]
    """(question, answer) asked after the documents, one hop each."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A question, blind queries with the document each found, and a blind answer."""

    question: str
    searches: tuple[tuple[str, str, str], ...]
    """(query, title, text)."""
    answer: str


def training_world(rng: random.Random, num_entities: int = 90) -> World:
    """Return a fresh world of training names."""
    return build_world(num_entities, draw_names("train", rng), rng)


def readings(world: World, two_hop_frac: float, max_distractors: int, rng: random.Random) -> Iterator[Reading]:
    """Yield readings of `world` without end; the share `two_hop_frac` needs two documents.

    Relation pairs held out for bamboogle never occur.
    """
    singles = [(entity, name) for entity in world.entities.values() for name in entity.facts]
    doubles = list(hops(world, not_held_out))
    while True:
        if doubles and rng.random() < two_hop_frac:
            subject, inner, middle, outer, answer = rng.choice(doubles)
            wordings = bridge_questions(inner, outer, described(subject))
            others = (wording(inner, outer, described(subject)) for wording in (compositional_question, _chained))
            question, needed = rng.choice((rng.choice(wordings), *others)), [subject.name, middle.name]
        else:
            subject, name = rng.choice(singles)
            question, answer = _asked(subject, name, rng)
            needed = [subject.name]
        distractors = rng.sample(list(world.documents), rng.randint(0, max_distractors))
        shown = list(dict.fromkeys(needed + distractors))
        rng.shuffle(shown)
        more = []
        for _ in range(3):
            entity = world.entities[rng.choice(shown)]
            more.append(_asked(entity, rng.choice(list(entity.facts)), rng))
        yield Reading(question, tuple((title, world.documents[title]) for title in shown), answer, tuple(more))


def walks(world: World, questions: list[WorldQuestion], rng: random.Random) -> Iterator[Walk]:
    """Yield uninformed walks without end.

    The first turn searches with probability .85, each later one with .7, at most three in all. A query is a
    name in view (65 %) or random words. The answer is the title of the first document (40 %) or a random name
    in view. Nothing depends on what was asked.
    """
    titles = list(world.documents)
    while True:
        asked = rng.choice(questions)
        in_view = _names_in(asked.question, world)
        searches = []
        while len(searches) < 3 and rng.random() < (0.7 if searches else 0.85):
            query = rng.choice(in_view) if rng.random() < 0.65 else _random_words(rng)
            title = query if query in world.documents else _look_up(query, titles, rng)
            searches.append((query, title, world.documents[title]))
            in_view = list(dict.fromkeys([*in_view, *_names_in(f"{title} {world.documents[title]}", world)]))
        answer = searches[0][1] if searches and rng.random() < 0.4 else rng.choice(in_view)
        yield Walk(asked.question, tuple(searches), answer)


def _asked(subject: Entity, relation: str, rng: random.Random) -> tuple[str, str]:
    wording = rng.choice((noun_question, clause_question, trivia_question, terse_question))
    return wording(_RELATION[relation], described(subject)), subject.facts[relation]


def _chained(inner, outer, subject: str) -> str:
    return chain_question((inner, outer), subject)


def _names_in(text: str, world: World) -> list[str]:
    words = re.findall(r"\w+", text)
    pairs = (f"{a} {b}" for a, b in pairwise(words))
    return list(dict.fromkeys(pair for pair in pairs if pair in world.entities))


def _random_words(rng: random.Random) -> str:
    words = [rng.choice(rng.choice((first_words(), last_words()))) for _ in range(rng.randint(1, 2))]
    # Two random words may happen to name a test entity, which pretraining must not even mention.
    if len(words) == 2 and words[0] in first_words() and words[1] in last_words() and is_test_name(" ".join(words)):
        words.reverse()
    return " ".join(words)


def _look_up(query: str, titles: list[str], rng: random.Random) -> str:
    words = set(query.split())
    sharing = [title for title in titles if words & set(title.split())]
    return rng.choice(sharing or titles)
