"""From scored rows to the numbers of the table: means, intervals, paired differences, macro averages."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from components.contracts.statistics import PairedDifference, bootstrap_interval, macro_mean, paired_difference


@dataclass(frozen=True)
class Outcomes:
    """What the answers of one method were worth: one array per column, one place per question, in the order asked."""

    set_names: NDArray[np.str_]
    question_hashes: NDArray[np.uint64]
    """First 8 bytes of the SHA-256 of each question's id: enough to see that two methods answered the same."""
    em: NDArray[np.float64]
    f1: NDArray[np.float64]
    num_searches: NDArray[np.int32]
    valid_action_frac: NDArray[np.float64]
    finished: NDArray[np.bool_]
    num_model_tokens: NDArray[np.int32]
    latency_s: NDArray[np.float64]
    search_failed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.em)

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Return the outcomes of a table of predictions with their `latency_s`."""
        ids = table["question_id"].to_pylist()
        names = ("em", "f1", "num_searches", "valid_action_frac", "finished", "num_model_tokens", "latency_s")
        return cls(
            set_names=np.array(table["set_name"].to_pylist(), dtype=np.str_),
            question_hashes=np.array([_hash(question_id) for question_id in ids], dtype=np.uint64),
            search_failed=np.array([bool(error) for error in table["search_error"].to_pylist()], dtype=bool),
            **{name: table[name].to_numpy() for name in names},
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return all of `parts`, one after the other."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def of_set(self, set_name: str) -> Self:
        """Return those of one set."""
        chosen = self.set_names == set_name
        return type(self)(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


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


def score_sets(outcomes: Outcomes, seed: int, resamples: int) -> dict[str, Score]:
    """Return set name -> score of one method, in the order in which the sets appear."""
    names = list(dict.fromkeys(outcomes.set_names.tolist()))
    return {name: _score(outcomes.of_set(name), seed, resamples) for name in names}


def score_average(outcomes: Outcomes, seed: int, resamples: int) -> Score:
    """Return the macro average over the sets: every set weighs the same, as in the paper's tables."""
    return _score(outcomes, seed, resamples, groups=outcomes.set_names)


def compare(ours: Outcomes, theirs: Outcomes, seed: int, resamples: int) -> PairedDifference:
    """Return the macro-averaged EM of `ours` minus `theirs` over the same questions in the same order."""
    assert np.array_equal(ours.question_hashes, theirs.question_hashes)
    return paired_difference(ours.em, theirs.em, seed=seed, resamples=resamples, groups=ours.set_names)


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


def _score(outcomes: Outcomes, seed: int, resamples: int, groups: Sequence[str] | NDArray[np.str_] = ()) -> Score:
    return Score(
        em=macro_mean(outcomes.em, groups),
        f1=macro_mean(outcomes.f1, groups),
        n=len(outcomes),
        ci95=bootstrap_interval(outcomes.em, seed=seed, resamples=resamples, groups=groups),
        searches=macro_mean(outcomes.num_searches, groups),
        valid_action_frac=macro_mean(outcomes.valid_action_frac, groups),
        finish_frac=macro_mean(outcomes.finished, groups),
        model_tokens=macro_mean(outcomes.num_model_tokens, groups),
        latency_s=float(np.median(outcomes.latency_s)),
        search_failures=int(outcomes.search_failed.sum()),
    )


def _hash(question_id: str) -> int:
    return int.from_bytes(hashlib.sha256(question_id.encode("utf-8", "replace")).digest()[:8])
