"""Which questions a step asks depends on seed and step, and on nothing that a kill could lose."""

from collections import Counter

import pytest

from components.contracts.errors import ConfigError
from components.contracts.question import Question
from components.train.prompts import counts_per_set, episode_seed, questions_of_step


def questions(name: str, count: int) -> list[Question]:
    return [Question(id=f"{name}:{i}", set_name=name, question=f"{i}?", golden_answers=("x",)) for i in range(count)]


BY_SET = {"nq": questions("nq", 10), "hotpotqa": questions("hotpotqa", 7)}


def ids(config, step, by_set=BY_SET) -> list[str]:
    return [question.id for question in questions_of_step(by_set, config, step)]


def test_a_step_needs_no_step_before_it(make_config):
    config = make_config(questions_per_step=6, seed=3)
    forwards = [ids(config, step) for step in range(8)]
    assert [ids(config, step) for step in reversed(range(8))] == forwards[::-1]


@pytest.mark.parametrize("other", [{"seed": 4}, {"seed": 3}])
def test_another_seed_asks_in_another_order(make_config, other):
    first = [ids(make_config(questions_per_step=6, seed=3), step) for step in range(4)]
    second = [ids(make_config(questions_per_step=6, **other), step) for step in range(4)]
    assert (first == second) == (other["seed"] == 3)


@pytest.mark.parametrize("per_step", [2, 6, 8, 34])
def test_every_epoch_asks_every_question_once(make_config, per_step):
    config = make_config(questions_per_step=per_step)
    asked = [question_id for step in range(70) for question_id in ids(config, step)]
    for name, members in BY_SET.items():
        mine = [question_id for question_id in asked if question_id.startswith(name)]
        whole = {question.id for question in members}
        epochs = [mine[i : i + len(members)] for i in range(0, len(mine) - len(members) + 1, len(members))]
        assert all(set(epoch) == whole for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


@pytest.mark.parametrize(
    ("shares", "total", "counts"),
    [
        pytest.param({"nq": 1.0, "hotpotqa": 1.0}, 10, {"nq": 5, "hotpotqa": 5}, id="half-and-half"),
        pytest.param({"nq": 1.0, "hotpotqa": 2.0}, 9, {"nq": 3, "hotpotqa": 6}, id="one-to-two"),
        pytest.param({"nq": 1.0, "hotpotqa": 2.0}, 10, {"nq": 4, "hotpotqa": 6}, id="remainder-to-the-first"),
        pytest.param({"nq": 1.0}, 3, {"nq": 3}, id="one-set"),
        pytest.param({"nq": 1e-6, "hotpotqa": 1.0}, 4, {"nq": 1, "hotpotqa": 3}, id="remainder-to-a-tiny-share"),
        pytest.param({"hotpotqa": 1.0, "nq": 1e-6}, 4, {"hotpotqa": 4}, id="share-too-small-for-a-question"),
    ],
)
def test_sets_share_a_step(make_config, shares, total, counts):
    config = make_config(set_shares=shares, questions_per_step=total)
    assert counts_per_set(config) == counts
    assert Counter(question_id.split(":")[0] for question_id in ids(config, 5)) == counts


def test_groups_stand_together(make_config):
    asked = ids(make_config(questions_per_step=4, episodes_per_question=3), 0)
    assert [asked[i : i + 3] for i in range(0, 12, 3)] == [[asked[i]] * 3 for i in range(0, 12, 3)]


@pytest.mark.parametrize("by_set", [{"nq": BY_SET["nq"]}, {**BY_SET, "hotpotqa": []}], ids=["missing", "empty"])
def test_share_of_an_unknown_set_is_an_error_that_names_it(make_config, by_set):
    with pytest.raises(ConfigError, match="'hotpotqa', which has no training questions"):
        questions_of_step(by_set, make_config(), 0)


def test_episode_seeds_never_repeat():
    seeds = [episode_seed(seed, step, index) for seed in range(3) for step in range(40) for index in range(64)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
