"""A registry on SQLite, and checkpoints, indexes and evaluations small enough to make by the dozen."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import StepContext, StepResult
from components.register.config import RegisterConfig
from components.register.main import run
from components.register.registry import Registry
from components.storage import publish
from components.tracking import open_client

PRODUCED_BY = ProducedBy(step="test", version="1", git_commit="c0ffee", config_sha256="ab")
LOOP = {"max_searches": 3, "top_k": 1}


@pytest.fixture(scope="session")
def registry_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@dataclass
class Shelf:
    """Makes the step's inputs below one storage root and runs it for one model name."""

    root: str
    folder: Path
    name: str
    client: object
    made: int = 0
    index: Manifest = field(init=False)
    questions: Manifest = field(init=False)

    def __post_init__(self) -> None:
        self.index = self.publish("index", {"lucene/segments": "s"}, metadata={"index_kind": "bm25"})
        self.questions = self.publish("questions", {"test/nq.jsonl": "q"})

    def publish(self, kind: str, contents: dict[str, str], **more: object) -> Manifest:
        return self.publish_bytes(kind, {Path(path): text.encode() for path, text in contents.items()}, **more)

    def publish_bytes(self, kind: str, contents: dict[Path, bytes], **more: object) -> Manifest:
        self.made += 1
        folder = self.folder / str(self.made)
        for path, data in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return publish(folder, storage_root=self.root, kind=kind, produced_by=PRODUCED_BY, **more)

    def checkpoint(self, weights: str, loop: dict | None = None) -> Manifest:
        contents = {"model/config.json": "{}", "model/tokenizer.json": "{}", "model/model.safetensors": weights}
        metadata = {"algorithm": "ppo", "loop": loop or LOOP}
        return self.publish("checkpoint", contents, metadata=metadata, inputs={"index": self.index})

    def evaluation(self, checkpoint: Manifest, em: dict[str, list[int]], **changes: object) -> Manifest:
        """`em` maps a set to its questions' scores; `changes` override columns."""
        rows = [
            {
                "method": method,
                "set_name": name,
                "question_id": f"{name}:{number}",
                "question": f"what is {number}",
                "golden_answers": [str(number)],
                "em": float(score if method == "search_r1" else 0),
                "num_searches": 1,
            }
            | changes
            for method in ("base", "search_r1")
            for name, scores in em.items()
            for number, score in enumerate(scores)
        ]
        self.made += 1
        folder = self.folder / str(self.made)
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
        scores = {
            name: {"em": sum(s) / len(s), "f1": 0.5, "n": len(s), "ci95": [0.1, 0.9], "searches": 1.0}
            for name, s in em.items()
        }
        of_base = {name: score | {"em": 0.0} for name, score in scores.items()}
        (folder / "scores.json").write_text(json.dumps({"em": {"base": of_base, "search_r1": scores}}))
        inputs = {"checkpoint": checkpoint, "index": self.index, "questions": self.questions}
        return publish(folder, storage_root=self.root, kind="evaluation", produced_by=PRODUCED_BY, inputs=inputs)

    def register(self, checkpoint: Manifest, evaluation: Manifest, **config: object) -> StepResult:
        context = StepContext("register", self.root, "c" * 64, "d" * 64)
        given = RegisterConfig(model_name=self.name, **config)
        return run(given, context, checkpoint=checkpoint, evaluation=evaluation, index=self.index)

    def registered(self, weights: str, em: dict[str, list[int]], **config: object) -> dict:
        checkpoint = self.checkpoint(weights)
        return self.register(checkpoint, self.evaluation(checkpoint, em), **config).manifest.metadata

    @property
    def registry(self) -> Registry:
        return Registry.open(self.name)

    def versions(self) -> list:
        return self.client.search_model_versions(f"name = '{self.name}'")


@pytest.fixture
def shelf(registry_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Shelf:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_uri)
    monkeypatch.setenv("SEARCHR1_RUN_ID", "run-1")
    name = f"model-{abs(hash(request.node.nodeid))}"
    return Shelf(f"file://{tmp_path / 'root'}", tmp_path / "made", name, open_client(registry_uri))
