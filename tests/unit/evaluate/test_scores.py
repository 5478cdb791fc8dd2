import numpy as np
import pytest

from components.contracts.statistics import PairedDifference
from components.evaluate.scores import by_method, compare, score_average, score_sets, scores_json


@pytest.fixture
def rows(row):
    """Two sets of different size: .75 of four on nq, .5 of two on musique."""
    nq = [row(index=i, em=em, num_searches=i) for i, em in enumerate([1.0, 1.0, 1.0, 0.0])]
    musique = [row(set_name="musique", index=i, em=em, finished=False) for i, em in enumerate([1.0, 0.0])]
    return nq + musique


def test_a_set_is_scored_by_plain_means(rows):
    scores = score_sets(rows, seed=0, resamples=500)
    assert list(scores) == ["nq", "musique"]
    assert (scores["nq"].em, scores["nq"].n, scores["nq"].searches) == (0.75, 4, 1.5)
    assert (scores["musique"].em, scores["musique"].n, scores["musique"].finish_frac) == (0.5, 2, 0.0)
    assert scores["nq"].ci95[0] <= 0.75 <= scores["nq"].ci95[1]


def test_the_average_weighs_every_set_alike(rows):
    average = score_average(rows, seed=0, resamples=500)
    assert (average.em, average.n, average.finish_frac) == (0.625, 6, 0.5)


def test_every_mean_and_the_interval_of_the_average_weigh_sets_alike(row):
    large = {"f1": 1.0, "num_searches": 4, "valid_action_frac": 1.0, "num_model_tokens": 30}
    small = {"f1": 0.0, "num_searches": 0, "valid_action_frac": 0.5, "num_model_tokens": 10, "finished": False}
    rows = [row(index=i, em=1.0, **large) for i in range(9)] + [row(set_name="musique", **small)]
    average = score_average(rows, seed=0, resamples=100)
    assert (average.em, average.ci95) == (0.5, (0.5, 0.5))
    means = (average.f1, average.searches, average.valid_action_frac, average.finish_frac, average.model_tokens)
    assert means == (0.5, 2.0, 0.75, 0.5, 20.0)


def test_the_interval_agrees_with_a_bootstrap_done_by_hand(row):
    rng = np.random.default_rng(3)
    em = (rng.random(200) < 0.3).astype(float)
    rows = [row(index=i, em=value) for i, value in enumerate(em)]
    by_hand = [em[rng.integers(0, 200, 200)].mean() for _ in range(4000)]
    assert score_average(rows, 0, 4000).ci95 == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.012)


def test_a_difference_is_paired_and_macro_averaged(row):
    ours = [row(index=i, em=float(i < 3)) for i in range(4)] + [row(set_name="musique", em=1.0)]
    theirs = [row(index=i, em=float(i < 1)) for i in range(4)] + [row(set_name="musique", em=1.0)]
    difference = compare(ours, theirs, seed=0, resamples=500)
    assert (difference.mean, difference.num_won, difference.num_lost) == (0.25, 2, 0)


def test_rows_in_another_order_are_not_comparable(row):
    with pytest.raises(AssertionError):
        compare([row(index=0), row(index=1)], [row(index=1), row(index=0)], 0, 100)


def test_equal_rows_give_equal_numbers(rows):
    assert score_sets(rows, 5, 500) == score_sets(rows, 5, 500)


def test_failures_and_medians_are_counted(row):
    rows = [row(index=i, latency_s=t, search_error=e) for i, (t, e) in enumerate([(1, ""), (9, "x"), (2, "")])]
    score = score_average(rows, 0, 100)
    assert (score.search_failures, score.latency_s) == (1, 2.0)


def test_the_file_is_keyed_by_method_then_set(rows, row):
    other = [row(method="base", set_name=r.set_name, index=i) for i, r in enumerate(rows)]
    grouped = by_method(rows + other)
    assert list(grouped) == ["search_r1", "base"]
    sets = {method: score_sets(found, 0, 100) for method, found in grouped.items()}
    averages = {method: score_average(found, 0, 100) for method, found in grouped.items()}
    difference = PairedDifference(mean=0.5, lo=0.25, hi=0.75, p_value=0.01, num_won=4, num_lost=1, num_questions=6)
    content = scores_json(sets, averages, {"base": difference}, {"base": 1.0})
    expected = {"em": 0.5, "ci95": [0.25, 0.75], "p_value": 0.01, "won": 4, "lost": 1, "n": 6}
    assert (content["search_r1_minus"], content["wall_s"]) == ({"base": expected}, {"base": 1.0})
    cell = content["em"]["search_r1"]["nq"]
    assert cell["em"] == 0.75 and cell["n"] == 4 and len(cell["ci95"]) == 2
    assert {"em", "f1", "n", "ci95", "searches", "valid_action_frac", "finish_frac"} <= set(cell)
    assert content["average"]["base"]["em"] == 0.0 and content["schema_version"] == 1
