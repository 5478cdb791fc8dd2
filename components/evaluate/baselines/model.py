"""A model ready to answer, and the shape every method has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.agent.engines.protocol import Engine
from components.contracts.episode import Episode

OnFinished = Callable[[Episode], None]
"""Called once per episode as it ends; what it raises stops the method."""


@dataclass(frozen=True)
class OpenModel:
    """An engine with the tokenizer of its weights."""

    engine: Engine
    tokenizer: Any
    """A Hugging Face tokenizer."""
