"""The summary step: what it writes, where, in which order, and what it refuses to summarize."""

import json

import pytest

from components.contracts.errors import ConfigError, ManifestError, MissingError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import StepContext
from components.storage import publish
from components.summary.config import SummaryConfig
from components.summary.main import run, step
from components.summary.schema import Summary

SCORE = {"em": 0.5, "f1": 0.6, "n": 10, "ci95": [0.2, 0.8], "searches": 1.2, "valid_action_frac": 1, "finish_frac": 0.9}
EM = {"search_r1": 0.5, "base": 0.25, "direct": 0.125}
"""On nq; nobody answers a question of popqa."""
SCORES = {"em": {method: {"nq": SCORE | {"em": em}, "popqa": SCORE | {"em": 0.0}} for method, em in EM.items()}}
TRAINED = {
    "algorithm": "ppo",
    "steps": 20,
    "best_step": 15,
    "rl_s": 12.5,
    "tokens": 4096,
    "dev_em": 0.7,
    "em_curve": [[0, 0.1], [20, 0.7]],
    "prompt": "plain",
}
REGISTERED = {
    "name": "search-r1",
    "version": "3",
    "alias": "champion",
    "decision": "promoted",
    "reasons": ["it is better"],
}
INPUTS = {
    "corpus": "corpus",
    "index": "index",
    "questions": "questions",
    "base_model": "base_model",
    "checkpoint": "checkpoint",
    "rl_no_search_checkpoint": "checkpoint",
    "sft_checkpoint": "checkpoint",
    "rejection_sampling_checkpoint": "checkpoint",
    "registration": "registration",
}
TRAININGS = ["checkpoint", "rl_no_search_checkpoint", "sft_checkpoint", "rejection_sampling_checkpoint"]
STEPS = dict.fromkeys(TRAININGS, "train") | {"registration": "register"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A storage root and the manifests of a finished run in it."""
    monkeypatch.setenv("SEARCHR1_RUN_ID", "small-1")
    monkeypatch.setenv("SEARCHR1_GIT_COMMIT", "abc123")
    root = f"file://{tmp_path}/runs"
    # Every training took another number of steps.
    metadata = {name: TRAINED | {"steps": 20 + number} for number, name in enumerate(TRAININGS)}
    metadata["registration"] = REGISTERED
    manifests = {
        name: Manifest(
            kind=kind,
            uri=f"{root}/store/{name}",
            files=(),
            digest=f"digest of {name}",
            produced_by=produced_by(STEPS.get(name, name), 2.0),
            inputs={"corpus": "digest of corpus"} if name == "index" else {},
            metadata=metadata.get(name, {}),
        )
        for name, kind in INPUTS.items()
    }
    manifests["evaluation"] = evaluation(tmp_path, root, SCORES)
    context = StepContext("summary", root, "0" * 64, "0" * 64)
    return context, manifests, tmp_path / "runs" / "small-1"


def produced_by(name, seconds):
    # Made by an earlier run: its commit is another one than that of the summary.
    return ProducedBy(step=name, version="1", git_commit="earlier", config_sha256="0", seconds=seconds)


def evaluation(tmp_path, root, scores):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "report.html").write_text("<p>report")
    return publish(folder, storage_root=root, kind="evaluation", produced_by=produced_by("evaluate", 3.0))


def test_summary_and_report_land_below_the_run_id(world):
    context, manifests, results = world
    result = run(SummaryConfig(preset="small-world", seeds={"train": 1}), context, **manifests)
    summary = Summary.from_json((results / "summary.json").read_bytes())
    assert (results / "report.html").read_text() == "<p>report"
    assert summary.run_id == "small-1"
    assert summary.preset == "small-world"
    assert summary.seeds == {"train": 1}
    assert summary.em["search_r1"]["nq"].ci95 == (0.2, 0.8)
    assert summary.train.em_curve == [(0, 0.1), (20, 0.7)]
    assert (summary.train.steps, summary.train_rl_no_search.steps) == (20, 21)
    assert {name: made.steps for name, made in summary.train_baselines.items()} == {"sft": 22, "rejection_sampling": 23}
    assert summary.registry.model_dump(mode="json") == REGISTERED
    assert summary.versions["git_commit"] == "abc123"
    assert summary.report == f"file://{results}/report.html"
    assert result.metrics == {"em_search_r1": 0.25, "em_base": 0.125, "em_direct": 0.0625}
    assert {entry.path for entry in result.manifest.files} == {"summary.json", "report.html"}


def test_of_many_methods_ten_are_headline_numbers_and_all_are_on_the_card(world, tmp_path):
    context, manifests, _ = world
    methods = ["search_r1", *(f"m{number}" for number in range(12))]
    many = tmp_path / "many"
    many.mkdir()
    manifests["evaluation"] = evaluation(
        many, context.storage_root, {"em": dict.fromkeys(methods, SCORES["em"]["base"])}
    )
    result = run(SummaryConfig(), context, **manifests)
    assert list(result.metrics) == [f"em_{method}" for method in methods[:10]]
    assert "| m11 |" in result.card


def test_times_are_named_after_tasks(world):
    context, manifests, results = world
    run(SummaryConfig(), context, **manifests)
    timings_s = Summary.from_json((results / "summary.json").read_bytes()).timings_s
    assert timings_s == {
        "corpus": 2.0,
        "index": 2.0,
        "questions": 2.0,
        "base_model": 2.0,
        "train": 2.0,
        "train_rl_no_search": 2.0,
        "train_sft": 2.0,
        "train_rejection_sampling": 2.0,
        "evaluate": 3.0,
        "register": 2.0,
    }


def test_lineage_links_digests(world):
    context, manifests, results = world
    run(SummaryConfig(), context, **manifests)
    lineage = Summary.from_json((results / "summary.json").read_bytes()).lineage
    assert lineage["index"].inputs["corpus"] == lineage["corpus"].digest
    assert {link.git_commit for link in lineage.values()} == {"earlier"}


def test_summary_survives_a_round_trip(world):
    context, manifests, results = world
    run(SummaryConfig(), context, **manifests)
    text = (results / "summary.json").read_text()
    assert Summary.from_json(text).to_json() == text
    assert json.loads(text)["schema_version"] == 1


def test_whoever_sees_a_summary_finds_its_report(world, tmp_path):
    context, manifests, results = world
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "scores.json").write_text(json.dumps(SCORES))
    made = produced_by("evaluate", 3.0)
    manifests["evaluation"] = publish(
        tmp_path / "bare", storage_root=context.storage_root, kind="evaluation", produced_by=made
    )
    with pytest.raises(MissingError, match=r"report\.html"):
        run(SummaryConfig(), context, **manifests)
    assert not (results / "summary.json").exists()


def test_without_a_run_id_nothing_is_written(world, monkeypatch):
    context, manifests, results = world
    monkeypatch.delenv("SEARCHR1_RUN_ID")
    with pytest.raises(ConfigError, match="SEARCHR1_RUN_ID"):
        run(SummaryConfig(), context, **manifests)
    assert not results.exists()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        pytest.param({}, "no scores of search_r1", id="empty"),
        pytest.param({"em": {"base": {"nq": SCORE}}}, "no scores of search_r1", id="trained model missing"),
        pytest.param({"em": {"search_r1": {"nq": SCORE | {"em": 1.5}}}}, "less than or equal to 1", id="impossible EM"),
        pytest.param({"em": {"search_r1": {"nq": {"em": 0.5}}}}, "Field required", id="incomplete row"),
    ],
)
def test_malformed_scores_are_refused(world, tmp_path, scores, words):
    context, manifests, results = world
    (tmp_path / "bad").mkdir()
    manifests["evaluation"] = evaluation(tmp_path / "bad", context.storage_root, scores)
    with pytest.raises(ManifestError, match=words):
        run(SummaryConfig(), context, **manifests)
    assert not results.exists()


def test_checkpoint_without_its_facts_is_refused(world):
    context, manifests, results = world
    manifests["checkpoint"] = manifests["checkpoint"].model_copy(update={"metadata": {}})
    with pytest.raises(ManifestError, match="small-1 cannot be summarized"):
        run(SummaryConfig(), context, **manifests)
    assert not results.exists()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{}", id="no fields"),
        pytest.param('{"schema_version": 2}', id="another version"),
    ],
)
def test_foreign_summaries_are_refused(text):
    with pytest.raises(ManifestError, match="not a summary of schema 1"):
        Summary.from_json(text, "x")


def test_step_is_named_after_its_folder():
    assert step.name == "summary"
