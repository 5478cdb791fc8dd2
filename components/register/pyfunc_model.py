"""`mlflow.pyfunc.load_model("models:/<name>@champion")`: the registered model behind the one search loop.

`predict` takes a DataFrame with the column `question` or a list of strings, and returns a DataFrame with a
row per question: `answer` (text), `searches` (the queries), `passages` (for each query a list of
`{id, title, text, score}`) and `stop_reason` (`answered`, or why there is no answer).
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.agent.config import LoopConfig
from components.agent.engines.protocol import Engine
from components.agent.episode_loop import EpisodeTask
from components.agent.prompt import Tokenizer, prompt_ids
from components.agent.rollout import rollout
from components.contracts.episode import Episode, SearchRecord, StopReason
from components.contracts.errors import MissingError, UserError
from components.register.model_files import MODEL_FOLDER, SERVING_NAME, Serving
from components.search.concurrent import ConcurrentSearch
from components.search.open import open_searcher
from components.search.protocol import SearchClient
from components.storage import verify

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["answer", "searches", "passages", "stop_reason"]
_MOST_SLOTS = 64
_COLUMN = "question"


class SearchModel:
    """A loaded model with its index; answers are greedy and hence repeatable; callers of other threads wait.

    `make_engine` returns an engine with that many slots: its cache grows with the largest request only.
    """

    def __init__(
        self, make_engine: Callable[[int], Engine], tokenizer: Tokenizer, client: SearchClient, loop: LoopConfig
    ) -> None:
        self._make_engine, self._tokenizer, self._client, self._loop = make_engine, tokenizer, client, loop
        self._engine, self._num_slots = make_engine(1), 1
        self._lock = threading.Lock()

    def predict(
        self, model_input: "pd.DataFrame | Sequence[str]", params: dict[str, Any] | None = None
    ) -> "pd.DataFrame":
        """Return one row per question, in order (columns: see the module).

        Raises:
            UserError: the input is neither a DataFrame with the column `question` nor a list of strings.
            ConfigError: a question is too long for the model's context.
        """
        import pandas as pd

        questions = questions_of(model_input)
        tasks = [
            EpisodeTask(str(number), prompt_ids(question, self._loop, self._tokenizer), seed=0, temperature=0.0)
            for number, question in enumerate(questions)
        ]
        with self._lock:
            num_slots = min(len(tasks), _MOST_SLOTS)
            if num_slots > self._num_slots:
                self._engine, self._num_slots = self._make_engine(num_slots), num_slots
            self._engine.reset_cache()
            episodes = rollout(self._engine, self._client, tasks, self._loop, self._tokenizer)
        return pd.DataFrame([_row(episode) for episode in episodes], columns=COLUMNS)


def questions_of(model_input: Any) -> list[str]:
    """Return the questions in what a caller passed to `predict`.

    Raises:
        UserError: it is something else, or a question is not text or empty.
    """
    columns = getattr(model_input, "columns", None)
    if columns is not None and _COLUMN in columns:
        questions = list(model_input[_COLUMN])
    elif isinstance(model_input, list | tuple):
        questions = list(model_input)
    else:
        given = f"a DataFrame with the columns {list(columns)}" if columns is not None else type(model_input).__name__
        raise UserError(f"predict was given {given}", f"a DataFrame with the column {_COLUMN!r}, a list of strings")
    for number, question in enumerate(questions):
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"Question {number} is {question!r}", "text that is not empty")
    return questions


def _load_pyfunc(path: str) -> SearchModel:
    """Return the model in the folder `path`; MLflow calls this by its name.

    Raises:
        MissingError: the folder is not one that the register step prepared.
        ManifestError: the model's or the index's files are damaged.
        SearchError: the search engine does not start.
    """
    folder = Path(path)
    if not (folder / SERVING_NAME).is_file():
        raise MissingError(f"{folder} has no {SERVING_NAME}", remedy="load a version made by the register step")
    serving = Serving.from_json((folder / SERVING_NAME).read_text(encoding="utf-8"))
    verify(serving.checkpoint, folder)
    make_engine, tokenizer = _open_model(folder / MODEL_FOLDER, serving.loop.max_context_tokens)
    client = ConcurrentSearch(open_searcher(serving.index), serving.loop.top_k)
    return SearchModel(make_engine, tokenizer, client, serving.loop)


def _open_model(folder: Path, max_context_tokens: int) -> tuple[Callable[[int], Engine], Tokenizer]:
    from components.agent.engines.load import load_model
    from components.agent.engines.torch_engine import TorchEngine

    model, tokenizer = load_model(folder)

    def make_engine(num_slots: int) -> Engine:
        return TorchEngine(model, tokenizer, num_slots=num_slots, max_context_tokens=max_context_tokens)

    return make_engine, tokenizer


def _row(episode: Episode) -> tuple[str, list[str], list[list[dict[str, Any]]], str]:
    is_answered = episode.stop_reason is StopReason.ANSWERED
    return (
        (episode.answer or "") if is_answered else "",
        [search.query for search in episode.searches],
        [_passages(search) for search in episode.searches],
        episode.stop_reason.value,
    )


def _passages(search: SearchRecord) -> list[dict[str, Any]]:
    found = [(scored.passage, scored.score) for scored in search.passages]
    return [{"id": p.id, "title": p.title, "text": p.text, "score": score} for p, score in found]
