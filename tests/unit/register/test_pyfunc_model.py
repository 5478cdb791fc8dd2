"""The registered model answers through MLflow, with the loop, the index and the weights it was evaluated with."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest

from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.contracts.errors import ManifestError, MissingError, SearchError, UserError
from components.contracts.passage import Passage, ScoredPassage
from components.register.model_files import Serving
from components.register.pyfunc_model import SearchModel, _load_pyfunc
from components.search.concurrent import ConcurrentSearch
from components.storage import open_storage

LOOP = LoopConfig(max_searches=2, top_k=1, max_turn_tokens=64, max_observation_tokens=200, max_context_tokens=900)


class Letters:
    chat_template = None
    added_tokens_decoder: ClassVar[dict] = {}

    def encode(self, text, *, add_special_tokens):
        return list(map(ord, text))

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


class Scripted:
    """Writes what `reply` makes of the context."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply, self.queue, self.temperatures, self.num_resets = reply, [], set(), 0

    def add_request(self, request: TurnRequest) -> None:
        self.queue.append(request)
        self.temperatures.add(request.temperature)

    def step(self) -> list[TurnOutput]:
        request = self.queue.pop(0)
        ids = list(map(ord, self.reply("".join(map(chr, request.token_ids)))))
        return [TurnOutput(request.sequence_id, ids, [0.0] * len(ids), "stop")]

    def has_unfinished(self) -> bool:
        return bool(self.queue)

    def release(self, sequence_id: int) -> None:
        pass

    def reset_cache(self) -> None:
        self.queue, self.num_resets = [], self.num_resets + 1


class Capitals:
    digest = "d" * 64

    def search(self, queries, top_k):
        if "broken" in queries:
            raise SearchError("engine is down")
        return [[ScoredPassage(Passage("7", '"France"\nParis is its capital'), 2.5)] for _ in queries]


def reply(context: str) -> str:
    if "broken" in context:
        return "<search>broken</search>"
    if "silent" in context:
        return "hmm"
    if "<information>" in context:
        return "<answer> Paris </answer>"
    return "<search> capital of France </search>"


@pytest.fixture
def engine() -> Scripted:
    return Scripted(reply)


@pytest.fixture
def model(engine: Scripted) -> SearchModel:
    client = ConcurrentSearch(Capitals(), 1, window_s=0.0, retries=0)
    return SearchModel(lambda num_slots: engine, Letters(), client, LOOP)


FRANCE = {"id": "7", "title": "France", "text": "Paris is its capital", "score": 2.5}


@pytest.mark.parametrize(
    ("question", "row"),
    [
        pytest.param("capital?", ["Paris", ["capital of France"], [[FRANCE]], "answered"], id="searches, then answers"),
        pytest.param("silent?", ["", [], [], "no_answer"], id="never answers"),
        pytest.param("broken?", ["", ["broken"], [[]], "search_failed"], id="a failed search is told apart"),
    ],
)
def test_predict(model: SearchModel, question: str, row: list) -> None:
    expected = dict(zip(("answer", "searches", "passages", "stop_reason"), row, strict=True))
    assert model.predict([question]).to_dict("records") == [expected]
    assert model.predict(pd.DataFrame({"id": [1], "question": [question]})).to_dict("records") == [expected]


def test_rows_keep_the_order_of_the_questions(model: SearchModel) -> None:
    questions = ["silent 1", "capital", "silent 2"] * 50
    assert list(model.predict(questions)["answer"]) == ["", "Paris", ""] * 50
    assert model.predict([]).empty


def test_answers_are_greedy_and_no_request_leaves_anything_to_the_next(model: SearchModel, engine: Scripted) -> None:
    model.predict(["capital?"])
    model.predict(["silent?", "capital?"])
    assert (engine.temperatures, engine.num_resets) == ({0.0}, 2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param("who?", "predict was given str", id="bare string"),
        pytest.param(pd.DataFrame({"text": ["x"]}), r"columns \['text'\]", id="other column"),
        pytest.param(["x", 3], "Question 1 is 3", id="number"),
        pytest.param(["  "], "not empty", id="blank"),
    ],
)
def test_other_inputs_are_refused(model: SearchModel, given: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model.predict(given)


def test_a_served_model_has_the_loop_and_the_index_it_was_registered_with(shelf) -> None:
    serving = Serving(shelf.checkpoint("weights"), shelf.index, LOOP)
    assert Serving.from_json(serving.to_json()) == serving and serving.loop != LoopConfig()


def test_a_folder_without_a_registered_model(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"searchr1\.json"):
        _load_pyfunc(str(tmp_path))


def test_changed_weights_are_not_loaded(shelf) -> None:
    checkpoint = shelf.checkpoint("weights", LOOP.model_dump())
    shelf.register(checkpoint, shelf.evaluation(checkpoint, {"nq": [1] * 20}))
    open_storage(checkpoint.uri).put_bytes(b"Weights", "model/model.safetensors")
    with pytest.raises(ManifestError, match=r"model\.safetensors has changed"):
        _load_pyfunc(checkpoint.uri.removeprefix("file://"))
