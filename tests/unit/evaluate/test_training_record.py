import json
from pathlib import Path

import pytest

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest, ProducedBy
from components.evaluate.training_record import training_record
from components.report.episodes import EpisodeView
from components.report.spans import Span
from components.storage import publish

MADE = ProducedBy(step="train", version="v", git_commit="c", config_sha256="f")
SPAN = Span(source="model", text="ab", num_tokens=2, tokens=("a", "b"), logprobs=(-0.5, -1.0), advantages=(1.0, -1.0))


def view(step: int) -> EpisodeView:
    return EpisodeView(
        question_id="nq:1", set_name="nq", question="Who?", golden_answers=("Ada",), prediction="Ada", has_answer=True,
        em=1.0, num_searches=1, stop_reason="answered", spans=(SPAN,), training_step=step, reward=1.0,
    )  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    def make(**rollouts: str) -> Manifest:
        folder = tmp_path / "checkpoint"
        (folder / "rollouts").mkdir(parents=True)
        (folder / "model.safetensors").write_text("weights")
        (folder / "metrics.jsonl").write_text('{"step": 1, "attempt": 1, "time_s": 0.0, "reward/mean": 0.5}\n')
        for name, text in rollouts.items():
            (folder / "rollouts" / f"{name}.json").write_text(text)
        return publish(folder, storage_root=f"file://{tmp_path}/root", kind="checkpoint", produced_by=MADE)

    return make


def stored(step: int) -> str:
    return json.dumps([view(step).model_dump(mode="json")])


def test_metrics_and_episodes_come_in_step_order_and_weights_stay_closed(checkpoint):
    made = checkpoint(step_000020=stored(20), step_000010=stored(10))
    (Path(made.uri.removeprefix("file://")) / "model.safetensors").unlink()
    record = training_record(made)
    assert list(record.episodes) == [view(10), view(20)]
    assert [line["reward/mean"] for line in record.metrics] == [0.5]


def test_a_checkpoint_that_kept_no_episodes_has_none(checkpoint):
    assert training_record(checkpoint()).episodes == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[", id="torn"),
        pytest.param('{"step": 1}', id="no-list"),
        pytest.param('[{"question": "<script>"}]', id="no-episode"),
        pytest.param(stored(1).replace('"tokens": ["a", "b"]', '"tokens": ["a", "x"]'), id="tokens-of-another-text"),
    ],
)
def test_files_that_hold_something_else_are_named(checkpoint, text):
    with pytest.raises(ManifestError, match=r"rollouts/step_000010\.json holds no episodes"):
        training_record(checkpoint(step_000010=text))
