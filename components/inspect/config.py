"""Settings of an inspection."""

from typing import Literal

from pydantic import Field, PositiveInt

from components.contracts.config import StepConfig


class InspectConfig(StepConfig):
    """What is measured, and how much of it."""

    top_k: tuple[PositiveInt, ...] = Field(default=(1, 3, 10, 100), min_length=1)
    """A question is a hit at k when one of its k best passages holds a gold answer."""
    asked_questions: PositiveInt | Literal["all"] = 2_000
    """Questions of a set that are searched for; of a larger set so many are drawn, and the table says so."""
    sample_seed: int = Field(default=42, ge=0)
    """Draws the questions that are searched for."""
    token_budget: PositiveInt = 500
    """Tokens a passage may take before a search loop has to cut it (observation size of the Search-R1 paper)."""
    tokenizer: str = ""
    """Folder of the tokenizer that counts tokens; empty text estimates 1.3 tokens a word."""
    long_answer_words: PositiveInt = 10
    """Gold answers with more words count as long: exact match seldom rewards them."""
