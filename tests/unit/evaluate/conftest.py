from collections.abc import Callable
from typing import ClassVar

import pytest

from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.contracts.errors import SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.contracts.question import Question
from components.evaluate.baselines.model import OpenModel
from components.evaluate.predictions import Prediction

END = "\N{END OF TEXT}"


class LetterTokenizer:
    """One token per character."""

    added_tokens_decoder: ClassVar[dict] = {}
    chat_template: str | None = None

    def encode(self, text, *, add_special_tokens):
        return list(map(ord, text))

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


class ScriptedEngine:
    """Answers every turn at once with what `reply` makes of the context; keeps the requests.

    Refuses a context that does not continue what it holds of the sequence: a cache would be wrong for it.
    """

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply, self.queue, self.seen, self.released, self.held = reply, [], [], [], {}

    def add_request(self, request: TurnRequest) -> None:
        context = "".join(map(chr, request.token_ids))
        assert context.startswith(self.held.get(request.sequence_id, "")), "release a sequence before it starts anew"
        self.queue.append(request)
        self.seen.append((context, request.temperature))

    def step(self) -> list[TurnOutput]:
        request = self.queue.pop(0)
        context = "".join(map(chr, request.token_ids))
        text = self.reply(context)
        ends = [text.index(stop) + len(stop) for stop in request.stop_strings if stop in text]
        text = text[: min([*ends, request.max_new_tokens])]
        self.held[request.sequence_id] = context + text[:-1]
        finish = "eos" if text.endswith(END) else "stop"
        return [TurnOutput(request.sequence_id, list(map(ord, text)), [0.0] * len(text), finish)]

    def has_unfinished(self) -> bool:
        return bool(self.queue)

    def release(self, sequence_id: int) -> None:
        self.held.pop(sequence_id, None)
        self.released.append(sequence_id)


class DictSearcher:
    """Finds the text stored under a query, fails for the queries it is told to fail for."""

    digest = "d" * 64

    def __init__(self, texts: dict[str, str], failing: frozenset[str] = frozenset()) -> None:
        self.texts, self.failing, self.queries = texts, failing, []

    def search(self, queries, top_k):
        self.queries += queries
        if self.failing & set(queries):
            raise SearchError("engine is down")
        found = ([ScoredPassage(Passage(q, self.texts[q]), 1.0)] if q in self.texts else [] for q in queries)
        return list(found)


@pytest.fixture
def scripted():
    """Make a model that writes what a function makes of the text before it."""

    def make(reply: Callable[[str], str]) -> OpenModel:
        return OpenModel(ScriptedEngine(reply), LetterTokenizer())

    return make


@pytest.fixture
def dict_searcher():
    return DictSearcher


@pytest.fixture
def ask():
    """Make questions of one set from (question, gold answer) pairs."""

    def make(*pairs: tuple[str, str], set_name: str = "nq") -> list[Question]:
        return [
            Question(id=f"{set_name}:{i}", set_name=set_name, question=question, golden_answers=(gold,))
            for i, (question, gold) in enumerate(pairs)
        ]

    return make


@pytest.fixture
def row():
    """Make a scored row; only what a test cares about is given."""

    def make(method: str = "search_r1", set_name: str = "nq", index: int = 0, em: float = 0.0, **changes) -> Prediction:
        given = {
            "method": method,
            "set_name": set_name,
            "question_id": f"{set_name}:{index}",
            "question": "Who?",
            "golden_answers": ("Ada",),
            "prediction": "Ada" if em else "Bob",
            "em": em,
            "f1": em,
            "num_searches": 1,
            "valid_action_frac": 1.0,
            "finished": True,
            "latency_s": 0.5,
            "num_model_tokens": 10,
            "stop_reason": "answered",
            "search_error": "",
        }
        return Prediction(**(given | changes))

    return make
