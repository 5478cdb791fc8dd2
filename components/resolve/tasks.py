"""The tasks of the DAG and the config class of each: the one place that knows every step's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.base_model.config import BaseModelConfig
from components.contracts.config import StepConfig
from components.corpus.config import CorpusConfig
from components.evaluate.config import EvaluateConfig
from components.index.config import IndexConfig
from components.questions.config import QuestionsConfig
from components.register.config import RegisterConfig
from components.summary.config import SummaryConfig
from components.train.config import TrainConfig


@dataclass(frozen=True)
class Task:
    """A task runs a step; a second task of one step starts from the settings of the first."""

    step: str
    config_class: type[StepConfig]
    laid_over: str = ""
    """Name of the task whose settings this one changes."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What makes this task another one than that; its own table in a preset may still say otherwise."""


def _baseline(**changes: Any) -> Task:
    # Checkpoints of the trained model are none of its baselines.
    return Task("train", TrainConfig, "train", {"continue_from": ""} | changes)


TASKS: dict[str, Task] = {
    "corpus": Task("corpus", CorpusConfig),
    "index": Task("index", IndexConfig),
    "questions": Task("questions", QuestionsConfig),
    "base_model": Task("base_model", BaseModelConfig),
    "train": Task("train", TrainConfig),
    "train_rl_no_search": _baseline(loop={"search_enabled": False}),
    "train_sft": _baseline(algorithm="sft", loop={"search_enabled": False}),
    "train_rejection_sampling": _baseline(algorithm="rejection_sampling", episodes_per_question=5),
    "evaluate": Task("evaluate", EvaluateConfig),
    "register": Task("register", RegisterConfig),
    "summary": Task("summary", SummaryConfig),
}
"""In the order of the resolve step's outputs; a hyphen in a task's or table's name reads as an underscore here."""
