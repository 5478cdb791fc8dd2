"""Finished answers below the step's work prefix: whatever ends a process, no finished question is asked again.

Two files per chunk. While it is being answered, `chunk-000012.jsonl` takes one line per finished question, in the
order in which they finish; a line is with the operating system before the next question counts. Below an object
store, which cannot append, the file lies on this machine and is stored every `STORE_EVERY_S`. When all are answered,
`chunk-000012.parquet` takes its place: the rows in the order of the questions, published in one piece.

A question whose search failed counts as not answered the next time; its chunk keeps the first form.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.errors import ManifestError
from components.evaluate.chunks import Chunk
from components.evaluate.predictions import SCHEMA, Prediction, predictions_table
from components.report.episodes import EpisodeView
from components.storage import Storage, open_storage
from components.storage.local import LocalStorage

STORE_EVERY_S = 30.0
_KEPT_SCHEMA = SCHEMA.append(pa.field("latency_s", pa.float64()))
_WALL_S = b"searchr1.wall_s"


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished question."""

    row: Prediction
    view: EpisodeView | None = None
    """The episode, for the few that may be shown."""


class KeptAnswers:
    """The kept answers of one method of one evaluation, below `uri`; `scratch` is a local folder of this process."""

    def __init__(self, uri: str, scratch: Path) -> None:
        self._storage, self._scratch = open_storage(uri), scratch
        self._complete = {info.key for info in self._storage.list() if info.key.endswith(".parquet")}

    def is_complete(self, chunk: Chunk) -> bool:
        """Return whether every question of the chunk was answered before this object was made."""
        return f"{chunk.name}.parquet" in self._complete

    def journal(self, chunk: Chunk) -> "Journal":
        """Return the journal of a chunk that is not complete."""
        return Journal(self._storage, f"{chunk.name}.jsonl", self._scratch)

    def complete(self, chunk: Chunk, answers: Sequence[Answer], wall_s: float) -> None:
        """Publish all answers of the chunk, in the order of the questions, and drop its journal."""
        buffer, metadata = BytesIO(), {_WALL_S: repr(wall_s)}
        pq.write_table(_table(answers).replace_schema_metadata(metadata), buffer, compression="zstd")
        self._storage.put_bytes(buffer.getvalue(), f"{chunk.name}.parquet")
        self._storage.delete(f"{chunk.name}.jsonl")

    def read(self, chunk: Chunk, question_ids: Sequence[str]) -> tuple[pa.Table, float]:
        """Return the answers of a chunk (columns of `Prediction`, `latency_s`, `view`) and the seconds they took.

        Raises:
            ManifestError: answers are missing, or they are of other questions.
        """
        name = f"{chunk.name}.parquet"
        if self._storage.exists(name):
            table = pq.read_table(BytesIO(self._storage.get_bytes(name)))
            wall_s = float((table.schema.metadata or {}).get(_WALL_S, b"0"))
        else:
            kept = self.journal(chunk).answers(failed=True)
            answers = [kept[question_id] for question_id in question_ids if question_id in kept]
            table, wall_s = _table(answers), max((answer.row.latency_s for answer in answers), default=0.0)
        if table["question_id"].to_pylist() != list(question_ids):
            raise ManifestError(
                f"{self._storage.uri(chunk.name)} does not hold the answers of {chunk.method}",
                f"{len(question_ids)} questions from {question_ids[0]} on",
                "delete that folder and evaluate again",
            )
        return table, wall_s


class Journal:
    """The answers of one chunk so far, a line each."""

    def __init__(self, storage: Storage, key: str, scratch: Path) -> None:
        self._storage, self._key = storage, key
        self._is_local = isinstance(storage, LocalStorage)
        self._path = storage.path(key) if isinstance(storage, LocalStorage) else scratch / key
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._is_local and not self._path.exists() and storage.exists(key):
            storage.get_file(key, self._path)
        self._stored_s = time.monotonic()

    def answers(self, *, failed: bool = False) -> dict[str, Answer]:
        """Return question id -> answer; those whose search failed only on request, and later lines before earlier."""
        data = self._path.read_bytes() if self._path.exists() else b""
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            # The process ended in the middle of a line.
            self._path.write_bytes(whole + b"\n" if whole else b"")
        answers = map(_answer, whole.splitlines())
        return {answer.row.question_id: answer for answer in answers if failed or not answer.row.search_error}

    def append(self, answer: Answer) -> None:
        """Keep one answer."""
        record = {"row": asdict(answer.row)}
        if answer.view:
            record["view"] = answer.view.model_dump(mode="json")
        # Without a buffer: what is written survives this process.
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(record).encode() + b"\n")
        if time.monotonic() - self._stored_s >= STORE_EVERY_S:
            self.store()

    def store(self) -> None:
        """Bring the lines so far to an object store; on a disk they are there."""
        self._stored_s = time.monotonic()
        if not self._is_local:
            self._storage.put_file(self._path, self._key)


def _table(answers: Iterable[Answer]) -> pa.Table:
    answers = list(answers)
    views = [json.dumps(answer.view.model_dump(mode="json")) if answer.view else None for answer in answers]
    table = predictions_table([answer.row for answer in answers], _KEPT_SCHEMA)
    return table.append_column("view", pa.array(views, pa.string()))


def _answer(line: bytes) -> Answer:
    record = json.loads(line)
    row = record["row"] | {"golden_answers": tuple(record["row"]["golden_answers"])}
    view = record.get("view")
    return Answer(Prediction(**row), EpisodeView.model_validate(view) if view else None)
