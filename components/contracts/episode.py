"""What happened when a model met a question: tokens, mask, turns, searches and why it ended."""

from dataclasses import dataclass, field
from enum import StrEnum

from components.contracts.passage import ScoredPassage


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    """The model closed an answer tag."""
    NO_ANSWER = "no_answer"
    """The last turn was spent and no answer came."""
    CONTEXT_FULL = "context_full"
    """The next observation or turn did not fit the context."""
    SEARCH_FAILED = "search_failed"
    """A search failed after its retries; the episode leaves the loss."""


class Action(StrEnum):
    """What a turn did: its first complete tag pair decides."""

    SEARCH = "search"
    ANSWER = "answer"
    INVALID = "invalid"


@dataclass(slots=True)
class Turn:
    """Model tokens `[start, end)` of one turn and the action read from them."""

    start: int
    end: int
    action: Action
    text: str
    """The query or the answer, stripped; for an invalid turn the raw text."""


@dataclass(slots=True)
class SearchRecord:
    """One query that was really sent."""

    query: str
    passages: list[ScoredPassage]
    latency_s: float
    error: str = ""
    """Says what failed; `passages` is then empty and means nothing."""


@dataclass(slots=True)
class Episode:
    """Token in, token out: `token_ids` holds prompt, sampled tokens verbatim and observations.

    `is_model_token` and `logprobs` run parallel to `token_ids`; a log-probability is 0.0 where the
    model did not sample.
    """

    question_id: str
    token_ids: list[int]
    prompt_length_tokens: int
    is_model_token: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    searches: list[SearchRecord] = field(default_factory=list)
    stop_reason: StopReason = StopReason.NO_ANSWER
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        missing = len(self.token_ids) - len(self.is_model_token)
        self.is_model_token.extend([False] * missing)
        self.logprobs.extend([0.0] * missing)

    @property
    def answer(self) -> str | None:
        """The text of the answer turn, or None when the model never answered (an answer may be empty text)."""
        last = self.turns[-1] if self.turns else None
        return last.text if last and last.action is Action.ANSWER else None

    @property
    def num_searches(self) -> int:
        """Queries sent, failed ones included."""
        return len(self.searches)

    @property
    def num_model_tokens(self) -> int:
        """Tokens the model sampled."""
        return sum(self.is_model_token)

    @property
    def valid_action_frac(self) -> float:
        """Share of turns that searched or answered; 0.0 for an episode without turns."""
        return sum(t.action is not Action.INVALID for t in self.turns) / len(self.turns) if self.turns else 0.0
