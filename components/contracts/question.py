"""A question with its gold answers, in the FlashRAG layout plus a composite id."""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

SetName = Literal["nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle"]
SEVEN_SETS: tuple[str, ...] = get_args(SetName)
"""The evaluation sets of the Search-R1 paper, in its column order."""


class Question(BaseModel):
    """One question; `id` is `{set_name}:{index}` and unique over all sets."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(min_length=1)
    set_name: str = Field(min_length=1)
    """`nq`, ... or the name of a custom set."""
    question: str = Field(min_length=1)
    golden_answers: tuple[str, ...] = Field(min_length=1)
    """Every alias that counts as right."""
    metadata: dict[str, Any] = {}
    """Free; `kind` (bridge, comparison, ...) groups questions for advantage whitening and reports."""

    @property
    def kind(self) -> str:
        """`{set_name}/{metadata kind}`, or the set name alone."""
        kind = self.metadata.get("kind")
        return f"{self.set_name}/{kind}" if kind else self.set_name
