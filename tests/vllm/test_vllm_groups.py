"""Two ranks that share one vLLM engine train together, whatever their searches do."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import components.base_model
from components.agent.engines.load import load_model
from components.contracts.manifest import ProducedBy
from components.contracts.question import Question
from components.storage import publish
from tests.vllm.test_vllm_process import HERE, finished

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
HEADS = 4
STEPS = 2
CONFIG = {
    "engine": "vllm",
    "vllm": {"tensor_parallel": 2},
    "parallel": {"cpu_ranks": 2},
    "algorithm": "ppo",
    "steps": STEPS,
    "questions_per_step": 8,
    "minibatches": 1,
    "set_shares": {"nq": 1.0},
    "row_tokens": 384,
    "reward": {"format_reward": 0.2},
    "dev": {"every_steps": 1, "max_questions": 4, "min_valid_action_frac": 0.0},
    "max_search_failure_frac": 1.0,
    "num_slots": 16,
    "threads": 1,
}


class Unreliable:
    """A retriever on loopback: no two calls get the same passages, and every second gets none."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        lock, calls = threading.Lock(), self.calls

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self._send(200, {"ready": True})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
                with lock:
                    number = sum(calls.values()) + 1
                    failed = number % 2 == 0
                    calls["failed" if failed else "answered"] += 1
                passage = {"document": {"id": "0", "contents": f'"T"\n{number} is a book.'}, "score": 0.1 * number}
                self._send(500 if failed else 200, {"result": [[passage] for _ in asked]})

            def _send(self, status, answer):
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def retriever() -> Iterator[Unreliable]:
    service = Unreliable()
    yield service
    service.server.shutdown()
    service.server.server_close()


@pytest.fixture
def killed_job() -> Iterator[None]:
    """What vLLM's shared memory for ranks on CPUs leaves on the machine when they are killed."""
    left = [Path(f"/dev/shm/-tp:0-[0-1]-cpushm_{number}") for number in range(2)]
    for file in left:
        file.touch()
    yield
    for file in left:
        file.unlink(missing_ok=True)


@torch.no_grad()
def widened(model: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    """The same function with a fourth head, since three cannot be shared by two: new dimensions are 0 throughout."""
    config = model.config.to_dict()
    factor = HEADS / config["num_attention_heads"]
    width = int(factor * config["hidden_size"])
    changed = {"hidden_size": width, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    wide = Qwen2ForCausalLM(Qwen2Config.from_dict(config | changed)).eval()
    for name, parameter in wide.named_parameters():
        narrow = model.get_parameter(name)
        parameter.zero_()
        # The mean of squares is taken over the zeros too.
        scale = factor**-0.5 if "norm" in name else 1.0
        parameter[tuple(slice(size) for size in narrow.shape)] = scale * narrow
    return wide


def test_wider_model_says_the_same():
    model, _ = load_model(Path(components.base_model.__file__).parent / "bundled" / "model")
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        assert (widened(model)(ids).logits - model(ids).logits).abs().max() < 1e-3


@pytest.fixture
def inputs(tmp_path) -> dict:
    """Published inputs of a train step, as JSON values."""
    model, tokenizer = load_model(Path(components.base_model.__file__).parent / "bundled" / "model")
    for kind in ("base_model", "questions", "index"):
        (tmp_path / kind).mkdir()
    for part in (widened(model), tokenizer):
        part.save_pretrained(tmp_path / "base_model" / "model")
    asked = [
        Question(id=f"nq:{i}", set_name="nq", question=f"who wrote the book dega duta {i}?", golden_answers=("x",))
        for i in range(20)
    ]
    for name, chosen in (("train", asked[4:]), ("dev", asked[:4])):
        lines = [question.model_dump_json() + "\n" for question in chosen]
        (tmp_path / "questions" / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "index" / "empty").write_text("the retriever has it")
    produced_by = ProducedBy(step="test", version="0", git_commit="", config_sha256="0" * 64)
    root = f"file://{tmp_path}/runs"
    return {
        kind: publish(tmp_path / kind, storage_root=root, kind=kind, produced_by=produced_by).model_dump(mode="json")
        for kind in ("base_model", "questions", "index")
    }


def test_two_ranks_train_over_one_engine_while_searches_fail_and_differ(inputs, retriever, killed_job, tmp_path):
    url = f"http://127.0.0.1:{retriever.server.server_port}"
    search = {"retriever_url": url, "require_digest": False, "retries": 0}
    given = {"config": CONFIG | {"search": search}, "storage_root": f"file://{tmp_path}/runs", "inputs": inputs}
    (tmp_path / "given.json").write_text(json.dumps(given))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finished(*torchrun, HERE / "group_training.py", tmp_path / "given.json")

    ranks = [json.loads((tmp_path / f"rank_{number}.json").read_text()) for number in range(2)]
    assert [found["client"] for found in ranks] == ["LeaderSearch", "FollowerSearch"]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["scored_by_engine"] == ranks[1]["scored_by_engine"]
    for found in ranks:
        gaps = np.abs(np.subtract(found["scored_by_engine"], found["scored_by_trainer"]))
        assert gaps.mean() < 1e-5
    steps = logged_steps(tmp_path / "runs" / "work")
    assert len(steps) == STEPS
    for metrics in steps:
        assert metrics["engine/probe_error_nats"] < 1e-5
        assert metrics["kl/rollout_vs_trainer"] < 1e-9
        assert metrics["perf/tokens_per_s"] == pytest.approx(2 * metrics["perf/tokens_per_s_per_rank"])
    assert min(retriever.calls["failed"], retriever.calls["answered"]) > 1
    assert max(metrics["search/failed_frac"] for metrics in steps) > 0
    # Every search is one of the first rank's.
    trained = sum(metrics["rollout/num_searches/mean"] * CONFIG["questions_per_step"] for metrics in steps)
    assert ranks[0]["searches"] > trained > 0
    assert ranks[1]["searches"] == 0


def logged_steps(work: Path) -> list[dict[str, float]]:
    (log,) = work.glob("train/*/metrics.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "loss/policy" in line]
