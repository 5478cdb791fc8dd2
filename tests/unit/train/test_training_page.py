"""The page of a training is whole, needs nothing else, and lets no text of others become markup."""

import json
import re
from pathlib import Path

import pytest

from components.contracts.manifest import Manifest, ProducedBy
from components.storage import publish
from components.train.training_page import training_page

MADE = ProducedBy(step="train", version="1", git_commit="c0ffee", config_sha256="ab", seconds=61.0)
HOSTILE = "</script><script>alert(1)</script>"
EPISODE = {
    "question_id": "nq:1",
    "set_name": "nq",
    "question": HOSTILE,
    "golden_answers": ["x"],
    "prediction": "x",
    "has_answer": True,
    "em": 1.0,
    "num_searches": 1,
    "stop_reason": "answered",
    "spans": [],
    "training_step": 2,
    "reward": 1.0,
}


def checkpoint(root: str, folder: Path, algorithm: str, episodes: list[dict]) -> Manifest:
    (folder / "rollouts").mkdir(parents=True)
    records = [{"step": n, "attempt": 1, "time_s": 0, "reward/mean": n / 10, "em/dev": n / 20} for n in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    if episodes:
        (folder / "rollouts" / "step_000002.json").write_text(json.dumps(episodes))
    facts = {"algorithm": algorithm, "steps": 3, "best_step": 2, "dev_em": 0.1, "rl_s": 61.0, "tokens": 1234}
    facts["em_curve"] = [[0, 0.0], [2, 0.1]]
    return publish(folder, storage_root=root, kind="checkpoint", produced_by=MADE, metadata=facts)


@pytest.mark.parametrize("root", ["file", "s3"])
@pytest.mark.parametrize(("algorithm", "episodes"), [("ppo", [EPISODE]), ("sft", [])])
def test_the_page_shows_the_training(tmp_path, monkeypatch, request, root, algorithm, episodes):
    monkeypatch.setenv("SEARCHR1_CACHE", str(tmp_path / "cache"))
    storage_root = f"file://{tmp_path}/root" if root == "file" else request.getfixturevalue("s3_root")
    made = checkpoint(storage_root, tmp_path / "made", algorithm, episodes)
    html = training_page(made, {"index": made})
    assert [word for word in (algorithm, "0.100", "1 min 01 s", "1,234", made.digest[:12]) if word not in html] == []
    assert html.count("<svg") == 2
    assert ("Episodes</h2>" in html) == bool(episodes)
    assert HOSTILE not in html
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", html) == []
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
