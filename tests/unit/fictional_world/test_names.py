"""Names: two words, split for ever."""

import random
from itertools import islice

import pytest

from components.fictional_world.names import draw_names, first_words, is_test_name, last_words


def test_words_are_distinct_and_every_one_occurs_in_both_splits():
    assert len({*first_words(), *last_words()}) == 200
    for split, expected in (("train", 7_000), ("test", 3_000)):
        names = set(draw_names(split, random.Random(0)))
        assert len(names) == expected
        assert {name.split()[0] for name in names} == set(first_words())
        assert {name.split()[1] for name in names} == set(last_words())
        assert {is_test_name(name) for name in names} == {split == "test"}


def test_split_does_not_depend_on_a_seed():
    first, second = (set(draw_names("test", random.Random(seed))) for seed in (1, 2))
    assert first == second


@pytest.mark.parametrize("split", ["train", "test"])
def test_order_depends_on_the_seed_alone(split):
    orders = [list(islice(draw_names(split, random.Random(seed)), 50)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_words_are_no_words_of_the_language():
    from components.fictional_world.relations import INFERENCES, RELATIONS

    wordings = " ".join(
        [f"{r.name} {r.subject} {r.clause} {r.trivia} {' '.join(r.statements)}" for r in RELATIONS]
        + list(INFERENCES.values())
    )
    assert not {*first_words(), *last_words()} & set(wordings.split())
