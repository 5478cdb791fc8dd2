"""Training and evaluation come to the same end whether the index is in their process or behind the service."""

from pathlib import Path

import pytest

from components.base_model import main as base_model_step
from components.base_model.config import BaseModelConfig
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext
from components.corpus import main as corpus_step
from components.corpus.config import CorpusConfig
from components.evaluate import main as evaluate_step
from components.evaluate.config import EvaluateConfig
from components.index import main as index_step
from components.index.config import IndexConfig
from components.questions import main as questions_step
from components.questions.config import QuestionsConfig
from components.train import main as train_step
from components.train.config import TrainConfig
from tests.integration.retriever_process import Retriever

pytestmark = pytest.mark.slow
WORLD = "world://mini?seed=1"
TRAIN = {
    "steps": 2,
    "questions_per_step": 16,
    "minibatches": 2,
    "dev": {"every_steps": 2, "max_questions": 8, "min_valid_action_frac": 0.0},
    "reward": {"outcome": "f1", "format_reward": 0.1},
    "policy_optimizer": {"learning_rate": 5e-5},
    "num_slots": 16,
    "threads": 1,
}
EVALUATE = {"methods": ("search_r1", "base", "rag"), "max_questions_per_set": 3, "threads": 1, "num_slots": 8}


def execute(module, name: str, config, root: Path, **inputs: Manifest) -> Manifest:
    return module.run(config, StepContext(name, f"file://{root}", "0" * 64, config.sha256()), **inputs).manifest


def train_and_evaluate(root: Path, made: dict[str, Manifest], **search) -> tuple[Manifest, Manifest]:
    checkpoint = execute(train_step, "train", TrainConfig.parse(TRAIN | {"search": search}), root, **made)
    config = EvaluateConfig.parse(EVALUATE | {"search": search})
    return checkpoint, execute(evaluate_step, "evaluate", config, root, checkpoint=checkpoint, **made)


def digests(manifest: Manifest, suffix: str) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(suffix)}


def test_weights_and_predictions_are_the_same(tmp_path):
    made = {
        "base_model": execute(base_model_step, "base_model", BaseModelConfig(), tmp_path / "runs"),
        "questions": execute(questions_step, "questions", QuestionsConfig(uri=WORLD), tmp_path / "runs"),
    }
    corpus = execute(corpus_step, "corpus", CorpusConfig(uri=WORLD), tmp_path / "runs")
    made["index"] = execute(index_step, "index", IndexConfig(threads=1, heap="256m"), tmp_path / "runs", corpus=corpus)
    retriever = Retriever(made["index"].uri)
    try:
        url = retriever.url
        by_service = train_and_evaluate(tmp_path / "by-service", made, retriever_url=url)
        in_process = train_and_evaluate(tmp_path / "in-process", made)
        text = retriever.page("/metrics")
    finally:
        assert retriever.stop() == 0
    assert "searchr1_retriever_queries_total 0" not in text
    weights, predictions = digests(in_process[0], ".safetensors"), digests(in_process[1], "predictions.parquet")
    assert weights and weights != digests(made["base_model"], ".safetensors") and predictions
    assert digests(by_service[0], ".safetensors") == weights
    assert digests(by_service[1], "predictions.parquet") == predictions
