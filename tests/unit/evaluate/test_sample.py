from collections import Counter

import pytest

from components.evaluate.sample import choose_rows

SEVEN = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


@pytest.fixture
def rows(row):
    return [row(set_name=name, index=i, em=float(i % 3 == 0)) for name in SEVEN for i in range(30)]


def test_ten_episodes_show_every_set_right_and_wrong(rows):
    chosen = choose_rows(rows, 10, seed=0)
    assert set(Counter(r.set_name for r in chosen).values()) == {1, 2}
    assert {r.em for r in chosen} == {0.0, 1.0} and 4 <= sum(r.em for r in chosen) <= 6


def test_the_seed_decides_and_nothing_else(rows):
    assert choose_rows(rows, 10, 1) == choose_rows(rows, 10, 1) != choose_rows(rows, 10, 2)


def test_sets_stand_in_their_order_right_ones_first(rows):
    chosen = choose_rows(rows, 14, seed=0)
    assert [r.set_name for r in chosen] == [name for name in SEVEN for _ in range(2)]
    assert [r.em for r in chosen] == [1.0, 0.0] * 7


@pytest.mark.parametrize(
    ("ems", "count", "expected"),
    [
        pytest.param([0.0, 0.0, 0.0], 2, 2, id="nothing-right"),
        pytest.param([1.0, 1.0], 5, 2, id="fewer-than-wanted"),
        pytest.param([1.0, 0.0], 0, 0, id="none-wanted"),
        pytest.param([], 5, 0, id="no-rows"),
    ],
)
def test_scarce_rows_are_used_once_each(row, ems, count, expected):
    chosen = choose_rows([row(index=i, em=em) for i, em in enumerate(ems)], count, seed=0)
    assert len(chosen) == len({r.question_id for r in chosen}) == expected
