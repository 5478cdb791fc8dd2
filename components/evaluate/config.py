"""Settings of the evaluate step; a checkpoint brings the loop it searches in."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from components.agent.config import EngineName, LoopConfig, VllmConfig
from components.contracts.config import StepConfig
from components.search.config import SearchConfig

Method = Literal[
    "search_r1",
    "base",
    "direct",
    "cot",
    "rag",
    "ircot",
    "react",
    "search_o1",
    "sft",
    "rl_no_search",
    "rejection_sampling",
]


class CotBudget(StepConfig):
    """What chain of thought may spend; like every budget here, never more per turn than the search loop's turn."""

    max_thought_tokens: int = Field(default=512, ge=1)
    """Tokens of reasoning, a tagged answer at its end included."""
    max_answer_tokens: int = Field(default=64, ge=1)
    """Tokens of the answer where the reasoning brought none."""


class IrcotBudget(StepConfig):
    """What IRCoT may spend; eight thoughts and fifteen paragraphs are the paper's limits."""

    max_steps: int = Field(default=8, ge=1, le=64)
    """Thoughts, each of which becomes a query."""
    max_thought_tokens: int = Field(default=96, ge=1)
    """Tokens of one thought."""
    max_passages: int = Field(default=15, ge=1, le=200)
    """Distinct passages collected."""
    reader: CotBudget = CotBudget()
    """Of the answer that is read from the collected passages."""


class ReactBudget(StepConfig):
    """What ReAct may spend; seven steps are the paper's limit."""

    max_steps: int = Field(default=7, ge=1, le=64)
    """Actions, the final answer included."""
    max_step_tokens: int = Field(default=256, ge=1)
    """Tokens of a thought with its action."""


class SearchO1Budget(StepConfig):
    """What Search-o1 may spend."""

    max_searches: int = Field(default=5, ge=0, le=64)
    """Searches; one last turn that must answer follows."""
    max_turn_tokens: int = Field(default=512, ge=1)
    """Tokens of reasoning between two searches."""
    max_reading_tokens: int = Field(default=256, ge=1)
    """Tokens of what is kept of the passages of a search."""


class Budgets(StepConfig):
    """Limits of the methods that are nothing but a prompt."""

    cot: CotBudget = CotBudget()
    """Chain of thought."""
    ircot: IrcotBudget = IrcotBudget()
    """Retrieval interleaved with thoughts."""
    react: ReactBudget = ReactBudget()
    """Prompted tool use."""
    search_o1: SearchO1Budget = SearchO1Budget()
    """Search with reasoning in documents."""


FOREIGN_LOOP = LoopConfig(
    template="search-r1",
    max_searches=4,
    top_k=3,
    max_turn_tokens=500,
    max_observation_tokens=500,
    max_context_tokens=4096,
)
"""The limits of the Search-R1 paper's own evaluation."""


class EvaluateConfig(StepConfig):
    """What is compared, on how many questions, and how sure the numbers are made."""

    methods: tuple[Method, ...] = ("search_r1", "base", "direct", "rag", "sft", "rl_no_search", "rejection_sampling")
    """Rows of the table, in this order. `search_r1`: the checkpoint in its loop; `base`: the untrained model
    in the same loop; `direct`: the untrained model without search; `rag`: the untrained model after one
    retrieval of the question; `cot`, `ircot`, `react`, `search_o1`: the untrained model under the prompts of the
    literature; `sft`: trained on questions and gold answers; `rl_no_search`: trained like `search_r1`, but without
    search; `rejection_sampling`: trained on the base model's own right episodes."""
    budgets: Budgets = Budgets()
    """Steps and tokens of the prompted methods."""
    max_questions_per_set: PositiveInt = 100_000
    """Larger sets are cut to this many questions, always the same ones."""
    loop: LoopConfig = FOREIGN_LOOP
    """How a model searches that was not trained here; a checkpoint of ours brings the loop it was trained in."""
    questions_per_chunk: int = Field(default=1024, ge=1, le=1_000_000)
    """Questions asked in one rollout, at most: enough to keep every slot busy, few enough to hold in memory."""
    ranks: int = Field(default=1, ge=1, le=256)
    """Processes of this machine that share the questions, each with a GPU of its own where there are some.
    Under `torchrun` its ranks share them instead. Answers do not depend on it."""
    num_slots: int = Field(default=128, ge=1, le=4096)
    """Episodes a model works on at the same time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models run; `auto` takes a GPU when there is one."""
    engine: EngineName = "torch"
    """What generates: `torch` runs everywhere, `vllm` is for GPUs and has to be installed."""
    vllm: VllmConfig = VllmConfig()
    """How vLLM uses its device."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of torch, in each rank."""
    search: SearchConfig = SearchConfig()
    """Where the passages come from; answers do not depend on it."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100_000)
    """Resamples behind every interval."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of the bootstrap and of the choice of the episodes shown; answers are greedy and need none."""
    num_report_episodes: int = Field(default=70, ge=0, le=200)
    """Episodes of the trained model shown in the report."""
    max_search_failure_frac: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of a method's questions that may lose a search after its retries; more stop the step."""

    @field_validator("loop", mode="before")
    @classmethod
    def _loop_changes_the_default(cls, value: Any) -> Any:
        return FOREIGN_LOOP.model_dump() | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _methods_make_a_table(self) -> Self:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("a method is named twice")
        if "search_r1" not in self.methods:
            raise ValueError("search_r1 is missing: the report is about it")
        return self
