"""Settings of the evaluate step; how a model searches is not among them: the checkpoint brings its loop."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from components.contracts.config import StepConfig

Method = Literal["search_r1", "base", "direct", "rag", "rl_no_search"]


class EvaluateConfig(StepConfig):
    """What is compared, on how many questions, and how sure the numbers are made."""

    methods: tuple[Method, ...] = ("search_r1", "base", "direct", "rag", "rl_no_search")
    """Rows of the table, in this order. `search_r1`: the checkpoint in its loop; `base`: the untrained model
    in the same loop; `direct`: the untrained model without search; `rag`: the untrained model after one
    retrieval of the question; `rl_no_search`: the model trained without search."""
    max_questions_per_set: PositiveInt = 100_000
    """Larger sets are cut to this many questions, always the same ones."""
    num_slots: int = Field(default=128, ge=1, le=4096)
    """Episodes a model works on at the same time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models run; `auto` takes a GPU when there is one."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of torch."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100_000)
    """Resamples behind every interval."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of the bootstrap and of the choice of the episodes shown; answers are greedy and need none."""
    num_report_episodes: int = Field(default=10, ge=0, le=200)
    """Episodes of the trained model shown in the report."""
    max_search_failure_frac: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of a method's questions that may lose a search after its retries; more stop the step."""

    @model_validator(mode="after")
    def _methods_make_a_table(self) -> Self:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is named twice")
        if "search_r1" not in self.methods:
            raise ValueError("search_r1 is missing: the report is about it")
        return self
