"""The whole step with real parts: a tiny untrained model, a Lucene index, files on a disk."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from components.agent.config import LoopConfig
from components.contracts.errors import ConfigError, ManifestError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import StepContext
from components.evaluate.config import EvaluateConfig
from components.evaluate.main import run, step
from components.evaluate.methods import ModelInput
from components.evaluate.outputs import OUTPUTS
from components.evaluate.predictions import read_predictions
from components.fictional_world.tiny_model import build_model, build_tokenizer
from components.index.build import build_lucene_index
from components.index.config import IndexConfig
from components.register.answers import read_answers
from components.report.episodes import EpisodeView
from components.storage import fetch, publish
from components.summary.schema import scores_of
from pipeline.cli import main

LOOP = LoopConfig(max_turn_tokens=8, max_observation_tokens=24, max_context_tokens=160, max_searches=2)
CONFIG = EvaluateConfig(num_slots=8, bootstrap_resamples=200, num_report_episodes=3, device="cpu", threads=1)
ROOT = Path(__file__).parents[3]
TOWNS = ["arlen", "borvik", "calden", "dorvale"]
TRAINED_ON = EpisodeView(
    question_id="nq:9", set_name="nq", question="where is ?", golden_answers=("arlen",), prediction="arlen",
    has_answer=True, em=1.0, num_searches=0, stop_reason="answered", spans=(), training_step=3, reward=1.0,
)  # fmt: skip
"""An episode of training: the page shows it, the evaluation does not take it for one of its own."""
MADE = ProducedBy(step="test", version="v", git_commit="c", config_sha256="f")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("evaluate")
    root = f"file://{folder / 'root'}"

    def stored(kind: str, name: str, **more) -> Manifest:
        return publish(folder / name, storage_root=root, kind=kind, produced_by=MADE, **more)

    corpus = folder / "corpus"
    corpus.mkdir()
    rows = [{"id": str(i), "contents": f'"{town}"\n{town} lies on a river .'} for i, town in enumerate(TOWNS)]
    (corpus / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_lucene_index(corpus, folder / "index" / "lucene", IndexConfig(threads=1, heap="256m"))
    index = stored("index", "index", metadata={"index_kind": "bm25", "k1": 0.9, "b": 0.4})
    for name in ("nq", "musique"):
        path = folder / "questions" / "test" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        asked = [
            {"id": f"{name}:{i}", "set_name": name, "question": f"where is {town} ?", "golden_answers": [town]}
            for i, town in enumerate(TOWNS)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in asked))
    questions = stored("questions", "questions", metadata={"train_sets": ["nq"]})
    tokenizer = build_tokenizer([*TOWNS, "where is ? lies on a river . question : answer search or doc title"])
    manifests = {"index": index, "questions": questions}
    for seed, name in enumerate(get_args(ModelInput)):
        import torch

        torch.manual_seed(seed)
        model = build_model(len(tokenizer), 32, 1, 64, tokenizer.eos_token_id, tokenizer.pad_token_id)
        model.save_pretrained(folder / name / "model")
        tokenizer.save_pretrained(folder / name / "model")
        (folder / name / "metrics.jsonl").write_text(
            "".join(json.dumps({"step": s, "attempt": 1, "time_s": 0.0, "reward/mean": s / 9}) + "\n" for s in range(9))
        )
        (folder / name / "rollouts").mkdir()
        (folder / name / "rollouts" / "step_000003.json").write_text(f"[{TRAINED_ON.model_dump_json()}]")
        loop = LOOP.model_copy(update={"search_enabled": name not in ("rl_no_search_checkpoint", "sft_checkpoint")})
        manifests[name] = stored(
            "base_model" if name == "base_model" else "checkpoint",
            name,
            inputs={"index": index, "questions": questions},
            metadata={"loop": loop.model_dump(mode="json"), "best_step": 6},
        )
    return manifests


@pytest.fixture
def context(tmp_path) -> StepContext:
    return StepContext("evaluate", f"file://{tmp_path}", "0" * 64, CONFIG.sha256())


@pytest.fixture(scope="module")
def first(inputs, tmp_path_factory):
    root = tmp_path_factory.mktemp("first")
    return run(CONFIG, StepContext("evaluate", f"file://{root}", "0" * 64, CONFIG.sha256()), **inputs)


def test_every_method_answers_every_question(first):
    rows = read_predictions(fetch(first.manifest) / OUTPUTS.predictions)
    assert len(rows) == 7 * 2 * len(TOWNS)
    assert list(dict.fromkeys(row.method for row in rows)) == list(CONFIG.methods)
    for method in CONFIG.methods:
        ids = [row.question_id for row in rows if row.method == method]
        assert ids == [f"{name}:{i}" for name in ("nq", "musique") for i in range(len(TOWNS))]
    fixed = {"rag": 1, "direct": 0, "sft": 0, "rl_no_search": 0}
    assert all(row.num_searches == fixed[row.method] for row in rows if row.method in fixed)


def test_two_evaluations_predict_the_same_bytes(first, inputs, context):
    again = run(CONFIG, context, **inputs)
    for name in (OUTPUTS.predictions, OUTPUTS.episodes):
        assert (fetch(first.manifest) / name).read_bytes() == (fetch(again.manifest) / name).read_bytes()


def test_the_outputs_are_what_other_steps_read(first, inputs):
    folder = fetch(first.manifest)
    scores = json.loads((folder / OUTPUTS.scores).read_text())
    assert set(scores["em"]) == set(CONFIG.methods) and set(scores["em"]["rag"]) == {"nq", "musique"}
    assert len(json.loads((folder / OUTPUTS.episodes).read_text())) == 3
    assert (folder / OUTPUTS.report).read_text() == first.html
    assert first.manifest.inputs == {name: made.digest for name, made in inputs.items()}
    assert first.manifest.counts == {"questions": 8, "methods": 7}
    assert first.manifest.metadata["loop"]["max_searches"] == 2 and len(first.metrics) <= 10
    assert "| Search-R1 |" in first.card


def test_the_next_steps_can_read_it(first):
    scores = scores_of(json.loads((fetch(first.manifest) / OUTPUTS.scores).read_text()), "scores.json")
    assert set(scores) == set(CONFIG.methods)
    answers = read_answers(first.manifest)
    assert len(answers) == 2 * len(TOWNS) and answers["nq:0"].golden_answers == (TOWNS[0],)


def test_the_report_shows_curves_and_lineage(first, inputs):
    assert "training, step 3" in first.html
    assert "reward" in first.html.lower() and 'class="chosen"' in first.html
    assert first.html.count('class="mark"') == 1
    lineage = first.html[first.html.index('<ol class="lineage">') :]
    places = [lineage.index(f'title="{inputs[name].digest}"') for name in ("index", "questions", "base_model")]
    assert places[0] < places[2] and places[1] < places[2]


@pytest.fixture(scope="module")
def beside_its_inputs(inputs):
    """An evaluation in the storage root of what it was made from, as in a run."""
    root = inputs["checkpoint"].uri.partition("/store/")[0]
    return run(CONFIG, StepContext("evaluate", root, "0" * 64, CONFIG.sha256()), **inputs)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("{root}/store/evaluation/{digest}/manifest.json", id="uri"),
        pytest.param("{path}/store/evaluation/{digest}/manifest.json", id="path"),
        pytest.param("r1", id="run"),
        pytest.param("latest", id="latest"),
    ],
)
def test_the_report_is_made_again_from_what_is_stored(beside_its_inputs, tmp_path, monkeypatch, what):
    manifest = beside_its_inputs.manifest
    root = manifest.uri.partition("/store/")[0]
    (tmp_path / "r1").mkdir()
    (tmp_path / "latest").symlink_to("r1")
    summary = {"lineage": {"evaluation": {"uri": manifest.uri}}}
    (tmp_path / "r1" / "summary.json").write_text(json.dumps(summary))
    monkeypatch.chdir(tmp_path)
    named = what.format(root=root, path=root.removeprefix("file://"), digest=manifest.digest[:16])
    main(["report", named, "--runs-dir", str(tmp_path)])
    made = tmp_path / ("report.html" if "/" in what else "r1/report.html")
    assert made.read_text() == beside_its_inputs.html == (fetch(manifest) / OUTPUTS.report).read_text()
    main(["report", named, "--runs-dir", str(tmp_path), "--output", "elsewhere/page.html"])
    assert (tmp_path / "elsewhere" / "page.html").read_bytes() == made.read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"kind": "index"}, "of the kind 'index'", id="not-an-evaluation"),
        pytest.param({"metadata": {}}, "does not say how it was scored", id="an-older-one"),
        pytest.param({"inputs": {}}, "checkpoint and questions of .* no longer be found", id="inputs-are-gone"),
    ],
)
def test_what_no_report_can_be_made_of_is_refused(beside_its_inputs, changes, says, tmp_path, capsys):
    made = beside_its_inputs.manifest.model_copy(update=changes)
    made.write(tmp_path / "manifest.json")
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path / "manifest.json"), "--output", str(tmp_path / "page.html")])
    assert re.search(says, capsys.readouterr().err) and not (tmp_path / "page.html").exists()


def test_a_checkpoint_without_its_loop_is_refused(inputs, context):
    nameless = inputs["checkpoint"].model_copy(update={"metadata": {}})
    with pytest.raises(ManifestError, match="which loop"):
        run(CONFIG, context, **(inputs | {"checkpoint": nameless}))


def test_a_checkpoint_brings_its_loop_and_takes_no_other(inputs, context):
    config = CONFIG.model_copy(update={"loop": LOOP})
    with pytest.raises(ConfigError, match=r"evaluate\.loop is set.*trained in a loop"):
        run(config, context, **inputs)


def test_a_model_that_was_not_trained_here_answers_in_the_loop_of_the_settings(inputs, context):
    config = CONFIG.model_copy(update={"methods": ("search_r1", "rag"), "loop": LOOP})
    given = {name: inputs[name] for name in ("index", "questions", "base_model")}
    made = run(config, context, **given, checkpoint=inputs["base_model"]).manifest
    assert made.metadata["loop"] == LOOP.model_dump(mode="json") and made.counts["questions"] == 2 * len(TOWNS)


def test_the_next_evaluation_asks_nothing_again(inputs, context, capsys):
    config = CONFIG.model_copy(update={"methods": ("search_r1", "direct")})
    once = run(config, context, **inputs)
    assert "kept from before" not in capsys.readouterr().out
    more = CONFIG.model_copy(update={"methods": ("search_r1", "direct", "rag")})
    twice = run(more, context, **inputs)
    assert "24 answers" in (said := capsys.readouterr().out) and "16 of them kept from before" in said
    rows = [read_predictions(fetch(made.manifest) / OUTPUTS.predictions) for made in (once, twice)]
    assert rows[1][:16] == rows[0]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["config.ranks", "torchrun"])
def test_two_ranks_write_the_bytes_of_one(inputs, context, tmp_path, launcher):
    config = CONFIG.model_copy(update={"methods": ("search_r1", "base", "rag"), "questions_per_chunk": 3})
    alone = fetch(run(config, context, **inputs).manifest)
    root = f"file://{tmp_path / 'ranks'}"
    if launcher == "config.ranks":
        shared = config.model_copy(update={"ranks": 2})
        made = run(shared, replace(context, storage_root=root), **inputs).manifest
    else:
        (tmp_path / "config.json").write_text(config.to_json())
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["-m", "components.evaluate", "--config", str(tmp_path / "config.json"), "--storage-root", root]
        for name, given in inputs.items():
            given.write(tmp_path / f"{name}.json")
            command += ["--input", f"{name}={tmp_path / name}.json"]
        subprocess.run([*command, "--output", str(tmp_path / "out")], cwd=ROOT, check=True, timeout=110)
        made = Manifest.read(tmp_path / "out" / "manifest.json")
    for name in (OUTPUTS.predictions, OUTPUTS.episodes):
        assert (fetch(made) / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.slow
def test_an_error_of_a_rank_comes_here_as_it_is(inputs, context):
    config = CONFIG.model_copy(update={"methods": ("search_r1",), "ranks": 2, "questions_per_chunk": 3})
    gone = inputs["checkpoint"].model_copy(update={"uri": "file:///gone"})
    with pytest.raises(ManifestError, match="is damaged"):
        run(config, context, **(inputs | {"checkpoint": gone}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"sft_checkpoint": None}, "needs sft_checkpoint", id="method-without-its-checkpoint"),
        pytest.param({"sft": "checkpoint"}, "Unknown inputs: sft\\b", id="input-of-another-name"),
    ],
)
def test_inputs_are_held_to_the_methods(inputs, context, changes, says):
    given = inputs | {name: inputs.get(value) for name, value in changes.items()}
    with pytest.raises(ManifestError, match=says):
        run(CONFIG, context, **{name: made for name, made in given.items() if made})


def test_baselines_nobody_asks_for_may_be_missing(inputs, context):
    config = CONFIG.model_copy(update={"methods": ("search_r1", "rl_no_search")})
    given = {
        name: made for name, made in inputs.items() if name not in ("sft_checkpoint", "rejection_sampling_checkpoint")
    }
    assert run(config, context, **given).manifest.counts["methods"] == 2


def test_the_step_is_known_by_its_name():
    assert (step.name, step.config_class) == ("evaluate", EvaluateConfig)
