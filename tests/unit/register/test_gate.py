"""The gate compares like with like and says in words what it found."""

import pytest

from components.contracts.statistics import paired_difference
from components.register.answers import Answer
from components.register.config import RegisterConfig
from components.register.gate import Candidate, differences, judge, judge_first


def candidate(
    em: dict[str, list[float]],
    *,
    version: str = "1",
    index: str = "index-a",
    loop: dict | None = None,
    wording: str = "what is",
    gold: tuple[str, ...] = ("a", "b"),
) -> Candidate:
    answers = {
        f"{name}:{number}": Answer(name, f"{wording} {number}", gold, score, 1)
        for name, scores in em.items()
        for number, score in enumerate(scores)
    }
    return Candidate(version, answers, index, loop or {"top_k": 3})


HALF = {"nq": [1.0, 0.0] * 20}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        pytest.param(candidate(HALF), [], id="nothing"),
        pytest.param(candidate(HALF, gold=("b", "a")), [], id="order of the gold answers"),
        pytest.param(candidate(HALF, index="index-b"), ["another index: index-a against index-b"], id="index"),
        pytest.param(
            candidate(HALF, loop={"top_k": 5, "new": 1}),
            ["another search loop: new = 'unset' against 1", "another search loop: top_k = 3 against 5"],
            id="loop",
        ),
        pytest.param(
            candidate(HALF, wording="who is"),
            ["other questions: 40 ask something else under the same id (nq:0, nq:1, nq:10, ...)"],
            id="wording under the same ids",
        ),
        pytest.param(
            candidate(HALF, gold=("c",)),
            ["other questions: 40 ask something else under the same id (nq:0, nq:1, nq:10, ...)"],
            id="gold answers",
        ),
        pytest.param(
            candidate({"nq": [1.0, 0.0] * 19 + [1.0], "popqa": [1.0]}),
            [
                "other questions: 1 only the challenger answered (nq:39)",
                "other questions: 1 only the champion answered (popqa:0)",
            ],
            id="ids",
        ),
    ],
)
def test_every_difference_is_named(other: Candidate, says: list[str]) -> None:
    assert differences(candidate(HALF), other) == says


def test_sets_weigh_the_same_however_large() -> None:
    em = {"nq": [1.0] * 90, "bamboogle": [0.0] * 10}
    assert candidate(em).mean_em == pytest.approx(0.5)
    assert candidate(em).em_by_set == {"bamboogle": 0.0, "nq": 1.0}


@pytest.mark.parametrize(
    ("challenger", "champion", "config", "decision"),
    [
        pytest.param({"nq": [1.0] * 30}, {"nq": [0.0] * 30}, {}, "promoted", id="clearly better"),
        pytest.param({"nq": [1.0] + [0.0] * 39}, {"nq": [0.0] * 40}, {}, "rejected", id="one question is chance"),
        pytest.param({"nq": [0.0] * 30}, {"nq": [1.0] * 30}, {}, "rejected", id="worse"),
        pytest.param(
            {"nq": [1.0] * 40, "popqa": [1.0] * 9 + [0.0]},
            {"nq": [0.0] * 40, "popqa": [1.0] * 10},
            {"max_set_drop": 0.1},
            "promoted",
            id="a fall of exactly the allowed size",
        ),
        pytest.param(
            {"nq": [1.0] * 40, "popqa": [1.0] * 9 + [0.0]},
            {"nq": [0.0] * 40, "popqa": [1.0] * 10},
            {"max_set_drop": 0.09},
            "rejected",
            id="a fall of more",
        ),
        pytest.param(
            {"nq": [0.0] * 4 + [1.0] * 96, "popqa": [1.0] * 6 + [0.0] * 4},
            {"nq": [1.0] * 100, "popqa": [0.0] * 10},
            {},
            "promoted",
            id="sets weigh the same in the interval too",
        ),
    ],
)
def test_judge(challenger: dict, champion: dict, config: dict, decision: str) -> None:
    verdict = judge(candidate(challenger, version="2"), candidate(champion), RegisterConfig(**config))
    assert verdict.decision == decision
    assert verdict.reasons


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"seed": 3}, id="seed"),
        pytest.param({"bootstrap_resamples": 100}, id="resamples"),
    ],
)
def test_the_interval_is_drawn_as_the_settings_say(config: dict) -> None:
    given = RegisterConfig(**config)
    ours, theirs = [1.0] * 20 + [0.0] * 20, [0.0] * 11 + [1.0] * 9 + [0.0] * 20
    gain = paired_difference(ours, theirs, seed=given.seed, resamples=given.bootstrap_resamples)
    verdict = judge(candidate({"nq": ours}, version="2"), candidate({"nq": theirs}), given)
    assert f"+0.275 [{gain.lo:+.3f}, {gain.hi:+.3f}], 11 questions won, 0 lost" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("floor", "decision"),
    [
        pytest.param(0.5, "promoted", id="reached"),
        pytest.param(0.51, "rejected", id="missed"),
    ],
)
def test_a_first_model_must_reach_the_floor(floor: float, decision: str) -> None:
    assert judge_first(candidate(HALF), RegisterConfig(min_mean_em=floor)).decision == decision


@pytest.mark.parametrize("name", ["", "a/b", "a:1", "a'b", "x" * 201])
def test_names_the_registry_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model_name"):
        RegisterConfig.parse({"model_name": name})
