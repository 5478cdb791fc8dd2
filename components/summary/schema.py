"""`summary.json`: the result of a run as programs read it (documented in `docs/summary.md`)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.contracts.errors import ManifestError

SCHEMA_VERSION = 1
TRAINED = "search_r1"
"""The method every summary holds: the trained model. The bundled presets add baselines."""

Fraction = Field(ge=0.0, le=1.0)


class _Record(BaseModel):
    # Within a schema version fields may be added: a reader ignores those it does not know.
    model_config = ConfigDict(frozen=True, extra="ignore")


class SetScore(_Record):
    """One method on one question set."""

    em: float = Fraction
    """Exact match, 0 to 1."""
    f1: float = Fraction
    """Token F1, 0 to 1."""
    n: int = Field(ge=1)
    """Questions scored."""
    ci95: tuple[float, float]
    """Bootstrap 95 % interval of `em`."""
    searches: float = Field(ge=0.0)
    """Mean searches per question."""
    valid_action_frac: float = Field(default=0.0, ge=0.0, le=1.0)
    """Mean share of turns that searched or answered."""
    finish_frac: float = Fraction
    """Share of questions that were answered."""


class TrainSummary(_Record):
    """What the training of one checkpoint did."""

    algorithm: str
    """`ppo`, `grpo`, `reinforce_loo`, `sft` or `rejection_sampling`."""
    steps: int = Field(ge=0)
    """Optimizer steps taken."""
    best_step: int = Field(ge=0)
    """Step whose weights were kept: the best on the dev questions."""
    rl_s: float = Field(ge=0.0)
    """Wall time of the training loop, in seconds."""
    tokens: int = Field(ge=0)
    """Tokens the policy was trained on: sampled ones, for `sft` those of gold answers."""
    dev_em: float = Fraction
    """Exact match of the kept weights on the dev questions."""
    em_curve: list[tuple[int, float]]
    """(step, exact match on the dev questions), in step order."""


class RegistrySummary(_Record):
    """What the registry did with the checkpoint."""

    name: str
    """Registered model name."""
    version: str
    """Version in the registry; empty when the gate refused and none was made."""
    alias: str
    """Alias the version holds now; empty when none."""
    decision: str
    """What the gate decided: `promoted`, `rejected`, `not_comparable` or `unchanged`."""
    reasons: tuple[str, ...] = ()
    """Why, one sentence each."""


class LineageLink(_Record):
    """One manifest of the run."""

    digest: str
    uri: str
    step: str
    """Step that made it."""
    git_commit: str
    inputs: dict[str, str]
    """Input name -> digest."""


class Summary(_Record):
    """The whole of `summary.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    preset: str
    seeds: dict[str, int]
    """Task -> seed."""
    versions: dict[str, str]
    """`searchr1`, `python`, `git_commit` and the libraries that decide results."""
    em: dict[str, dict[str, SetScore]]
    """Method -> question set -> score."""
    train: TrainSummary
    train_rl_no_search: TrainSummary
    train_baselines: dict[str, TrainSummary] = {}
    """The same for `sft` and `rejection_sampling`."""
    timings_s: dict[str, float]
    """Task -> wall time when it really ran, which may have been in an earlier run."""
    registry: RegistrySummary
    lineage: dict[str, LineageLink]
    """`corpus`, `index`, `questions`, `base_model`, `checkpoint`, ... -> where it came from."""
    report: str
    """URI of the HTML report."""

    def to_json(self) -> str:
        """Return the summary as indented JSON in field order, with a newline at the end."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "summary") -> "Summary":
        """Return the summary in `text`.

        Raises:
            ManifestError: it is not JSON, lacks a field, or is of another schema version.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ManifestError(f"{where} is not a summary of schema {SCHEMA_VERSION}: {error}") from None


def scores_of(document: dict[str, Any], where: str) -> dict[str, dict[str, SetScore]]:
    """Return method -> set -> score from the evaluation's `scores.json`.

    Raises:
        ManifestError: the trained model or a field is missing, or a value is out of bounds.
    """
    table = document.get("em", {})
    if not table.get(TRAINED):
        raise ManifestError(f"{where} has no scores of {TRAINED}", remedy="evaluate again")
    try:
        return {
            method: {name: SetScore.model_validate(row) for name, row in rows.items()} for method, rows in table.items()
        }
    except ValidationError as error:
        raise ManifestError(f"{where} holds a malformed score: {error}") from None
