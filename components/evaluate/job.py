"""Everything that decides the answers of an evaluation, in one object that travels to the ranks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from components.agent.config import LoopConfig
from components.contracts.manifest import Manifest
from components.contracts.question import Question
from components.evaluate.chunks import Chunk, cut
from components.evaluate.config import EvaluateConfig, Method
from components.evaluate.methods import METHODS, ModelInput
from components.evaluate.question_sets import read_question_sets
from components.storage import fetch

WITHOUT_INFLUENCE = ("methods", "budgets", "loop", "ranks", "search", "bootstrap_resamples", "max_search_failure_frac")
"""Settings that change no answer; budgets and loop count for the methods that use them, under their own names."""
LIBRARIES = ("torch", "transformers", "tokenizers")
"""Another version may compute other last bits."""


@dataclass(frozen=True)
class Job:
    """What is asked of whom; pickles, for it is sent to the processes that answer."""

    config: EvaluateConfig
    models: Mapping[ModelInput, Manifest]
    """In the order in which models are opened."""
    loops: Mapping[ModelInput, LoopConfig]
    index: Manifest
    questions: Manifest
    storage_root: str
    code_sha256: str

    def read_questions(self) -> list[Question]:
        """Return the questions that every method is asked, set by set.

        Raises:
            ManifestError: the question files are damaged.
            QuestionError: there are no questions, or one is malformed.
            StorageError: the storage refuses.
        """
        sets = read_question_sets(fetch(self.questions), self.config.max_questions_per_set)
        return [question for questions in sets.values() for question in questions]

    def methods_by_weights(self) -> list[Method]:
        """Return the methods, those that share weights side by side."""
        order = list(self.models)
        return sorted(self.config.methods, key=lambda method: order.index(METHODS[method].model))

    def chunks(self, num_questions: int) -> list[Chunk]:
        """Return the chunks of all methods in the order of `methods_by_weights`."""
        size = self.config.questions_per_chunk
        return [chunk for method in self.methods_by_weights() for chunk in cut(method, num_questions, size)]

    def answers_uri(self, method: Method) -> str:
        """Return where the answers of `method` are kept: one place for all evaluations that would get the same ones.

        Whatever can change an answer is part of the name: the weights, the index, the questions and how many
        of them, the loop, the method's budget, batch sizes and device, our code, the libraries.
        """
        config = self.config.model_dump(mode="json", exclude=set(WITHOUT_INFLUENCE))
        if method != "search_r1":
            config |= {"seed": None, "num_report_episodes": None}
        entry = METHODS[method]
        budget = getattr(self.config.budgets, method, None)
        parts = {
            "method": method,
            "model": self.models[entry.model].digest,
            "index": self.index.digest,
            "questions": self.questions.digest,
            "loop": self.loops[entry.model].to_json(),
            "budget": budget.to_json() if budget else "",
            "config": config,
            "code": self.code_sha256,
            "libraries": {name: _version(name) for name in LIBRARIES},
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.storage_root.rstrip('/')}/work/evaluate/{key}"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
