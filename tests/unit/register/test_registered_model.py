"""A tiny network is registered by reference on a disk and in a bucket, and answers when loaded by its alias."""

import json
from pathlib import Path

import pytest

from components.agent.config import LoopConfig
from components.index.build import build_lucene_index
from components.index.config import IndexConfig

LOOP = LoopConfig(max_searches=1, max_turn_tokens=8, max_observation_tokens=32, max_context_tokens=128)
QUESTIONS = ["where was anna berg born ?", "who wrote it ?"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from components.fictional_world.tiny_model import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(QUESTIONS)
    build_model(len(tokenizer), 64, 2, 64, tokenizer.eos_token_id, tokenizer.pad_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    (folder / "corpus").mkdir()
    rows = [{"id": str(i), "contents": f'"Anna {i}"\nAnna Berg was born in {i}'} for i in range(5)]
    (folder / "corpus" / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    build_lucene_index(folder / "corpus", folder / "lucene", IndexConfig(threads=1, heap="256m"))
    return folder / "lucene"


@pytest.mark.parametrize("store", ["file", "s3"])
def test_the_champion_answers_through_mlflow(
    shelf, store: str, model_folder: Path, index_folder: Path, request, tmp_path: Path, monkeypatch
) -> None:
    import mlflow

    monkeypatch.setenv("SEARCHR1_CACHE", str(tmp_path / "cache"))
    if store == "s3":
        shelf.root = request.getfixturevalue("s3_root")
    bytes_of = {Path("lucene") / path.name: path.read_bytes() for path in index_folder.iterdir()}
    shelf.index = shelf.publish_bytes("index", bytes_of, metadata={"index_kind": "bm25", "k1": 0.9, "b": 0.4})
    bytes_of = {Path("model") / path.name: path.read_bytes() for path in model_folder.iterdir()}
    checkpoint = shelf.publish_bytes("checkpoint", bytes_of, metadata={"loop": json.loads(LOOP.to_json())})
    shelf.register(checkpoint, shelf.evaluation(checkpoint, {"nq": [1] * 20}))

    mlflow.set_tracking_uri(shelf.client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{shelf.name}@champion")
    answers = loaded.predict(QUESTIONS)
    assert list(answers.columns) == ["answer", "searches", "passages", "stop_reason"]
    assert len(answers) == len(QUESTIONS)
    assert answers.equals(loaded.predict(QUESTIONS))
    pipeline = mlflow.transformers.load_model(f"models:/{shelf.name}@champion")
    assert type(pipeline.model).__name__ == "Qwen2ForCausalLM"
    assert pipeline.tokenizer(QUESTIONS[0])["input_ids"]
