"""From scored rows to the numbers of the table: means, intervals, paired differences, macro averages."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from components.contracts.statistics import PairedDifference, bootstrap_interval, macro_mean, paired_difference
from components.evaluate.predictions import Prediction


class Score(BaseModel):
    """One cell of the table: a method on a set, or its macro average over the sets."""

    model_config = ConfigDict(frozen=True)

    em: float
    f1: float
    n: int
    ci95: tuple[float, float]
    """Bootstrap interval of `em`."""
    searches: float
    """Per question."""
    valid_action_frac: float
    finish_frac: float
    """Share of questions that got an answer."""
    model_tokens: float
    """Per question."""
    latency_s: float
    """Median time from start to end of an episode, its waiting beside others included."""
    search_failures: int


def score_sets(rows: Sequence[Prediction], seed: int, resamples: int) -> dict[str, Score]:
    """Return set name -> score of one method's rows, in the order in which the sets appear."""
    names = list(dict.fromkeys(row.set_name for row in rows))
    return {name: _score([row for row in rows if row.set_name == name], seed, resamples) for name in names}


def score_average(rows: Sequence[Prediction], seed: int, resamples: int) -> Score:
    """Return the macro average over the sets: every set weighs the same, as in the paper's tables."""
    return _score(rows, seed, resamples, groups=[row.set_name for row in rows])


def compare(ours: Sequence[Prediction], theirs: Sequence[Prediction], seed: int, resamples: int) -> PairedDifference:
    """Return the macro-averaged EM of `ours` minus `theirs` over the same questions in the same order."""
    assert [row.question_id for row in ours] == [row.question_id for row in theirs]
    return paired_difference(
        [row.em for row in ours],
        [row.em for row in theirs],
        seed=seed,
        resamples=resamples,
        groups=[row.set_name for row in ours],
    )


def by_method(rows: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Return method -> its rows, both in the order given."""
    methods: dict[str, list[Prediction]] = {}
    for row in rows:
        methods.setdefault(row.method, []).append(row)
    return methods


def scores_json(
    sets: Mapping[str, Mapping[str, Score]],
    averages: Mapping[str, Score],
    differences: Mapping[str, PairedDifference],
    wall_s: Mapping[str, float],
) -> dict:
    """Return the content of `scores.json`; `em` is keyed by method, then by set."""
    return {
        "schema_version": 1,
        "em": {
            method: {name: score.model_dump(mode="json") for name, score in row.items()} for method, row in sets.items()
        },
        "average": {method: score.model_dump(mode="json") for method, score in averages.items()},
        "search_r1_minus": {
            method: {
                "em": d.mean,
                "ci95": [d.lo, d.hi],
                "p_value": d.p_value,
                "won": d.num_won,
                "lost": d.num_lost,
                "n": d.num_questions,
            }
            for method, d in differences.items()
        },
        "wall_s": dict(wall_s),
    }


def _score(rows: Sequence[Prediction], seed: int, resamples: int, groups: Sequence[str] = ()) -> Score:
    em = [row.em for row in rows]
    return Score(
        em=macro_mean(em, groups),
        f1=macro_mean([row.f1 for row in rows], groups),
        n=len(rows),
        ci95=bootstrap_interval(em, seed=seed, resamples=resamples, groups=groups),
        searches=macro_mean([row.num_searches for row in rows], groups),
        valid_action_frac=macro_mean([row.valid_action_frac for row in rows], groups),
        finish_frac=macro_mean([float(row.finished) for row in rows], groups),
        model_tokens=macro_mean([row.num_model_tokens for row in rows], groups),
        latency_s=float(np.median([row.latency_s for row in rows])),
        search_failures=sum(bool(row.search_error) for row in rows),
    )
