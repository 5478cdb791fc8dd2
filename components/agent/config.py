"""Limits and wording of the search loop; stored with every checkpoint, so that every later use agrees with training."""

from typing import Literal

from pydantic import Field

from components.contracts.config import StepConfig


class LoopConfig(StepConfig):
    """One search loop for every use of a model (Search-R1, section 3)."""

    template: Literal["plain", "search-r1"] = "plain"
    """Wording of the prompt: `plain` is the question alone, `search-r1` explains the tags to an instructed model."""
    search_enabled: bool = True
    """False answers without a search engine (R1): a search tag is then an invalid action."""
    max_searches: int = Field(default=3, ge=0, le=64)
    """Turns in which a search is possible; one last turn that must answer follows."""
    top_k: int = Field(default=1, ge=1, le=100)
    """Passages shown for a query."""
    max_turn_tokens: int = Field(default=16, ge=2)
    """Tokens the model may write in a turn."""
    max_observation_tokens: int = Field(default=64, ge=8)
    """Tokens an observation may take, its tags included: passages are cut, tags never."""
    max_context_tokens: int = Field(default=384, ge=32)
    """Prompt, turns and observations together."""
