"""The command line as a person meets it: help, exit codes, and errors that say what to do."""

import json
import re

import pytest
import yaml

from components.contracts.errors import ConfigError, MissingError
from components.contracts.manifest import Manifest, ProducedBy
from components.storage import publish
from pipeline.arguments import images_of
from pipeline.cli import _bring_home, _parser, _reason_for_nothing, main
from pipeline.local import RunFolder


def exit_code_of(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--help"], ["run", "compile", "lineage", "report", "submit", "schedule"], id="commands"),
        pytest.param(["evaluate", "--help"], ["--model", "--methods", "--ranks", "--index"], id="evaluate"),
        pytest.param(["submit", "--help"], ["--preset", "--dry-run", "--json", "--wait", "--namespace"], id="submit"),
        pytest.param(["schedule", "--help"], ["--cron", "--every", "--replace", "seconds first"], id="schedule"),
        pytest.param(["run", "--help"], ["--preset", "--set STEP.KEY=VALUE", "--seed", "--runs-dir"], id="run"),
    ],
)
def test_help_names_what_there_is(capsys, arguments, words):
    assert exit_code_of(*arguments) == 0
    shown = capsys.readouterr().out
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--preset", "smal-world"], "did you mean 'small-world'", id="unknown preset"),
        pytest.param(["--set", "train.stepz=1"], "did you mean 'steps'", id="unknown key"),
        pytest.param(["--set", "trian.steps=1"], "did you mean 'train'", id="unknown step"),
        pytest.param(["--set", "train.steps=none"], "train.steps = 'none'", id="wrong type"),
        pytest.param(["--seed", "-4"], "seed = -4", id="seed out of bounds"),
        pytest.param(["--seed", "many"], "invalid int value: 'many'", id="seed that is no number"),
    ],
)
def test_bad_requests_end_with_2_and_leave_nothing(tmp_path, capsys, arguments, words):
    runs = tmp_path / "runs"
    assert exit_code_of("run", "--runs-dir", str(runs), *arguments) == 2
    assert words in capsys.readouterr().err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "There is no model 'latest'", id="no run yet"),
        pytest.param(["--model", "hf://owner/name"], "--questions URI together with --corpus URI", id="foreign model"),
        pytest.param(["--ranks", "two"], "invalid int value: 'two'", id="ranks that are no number"),
    ],
)
def test_evaluate_says_what_it_needs(tmp_path, capsys, arguments, words):
    runs = tmp_path / "runs"
    assert exit_code_of("evaluate", "--runs-dir", str(runs), *arguments) == 2
    assert words in capsys.readouterr().err
    assert not runs.exists()


def test_print_config_shows_every_setting_and_starts_nothing(tmp_path, capsys):
    runs = tmp_path / "runs"
    main(["run", "--runs-dir", str(runs), "--print-config", "--seed", "5", "--set", "train.steps=4"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["steps"] == 4
    assert shown["train"]["seed"] == shown["summary"]["seeds"]["train"] == 5
    assert shown["train_rl_no_search"]["loop"]["search_enabled"] is False
    assert not runs.exists()


def test_compile_writes_yaml(tmp_path, capsys):
    main(["compile", "--output", str(tmp_path / "p.yaml")])
    assert "p.yaml" in capsys.readouterr().out
    assert next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))["pipelineInfo"]["name"] == "search-r1"


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        pytest.param([], {}, id="nothing given, nothing passed"),
        pytest.param(["--image", "a"], {"image": "a"}, id="image"),
        pytest.param(["--cache-claim", "c"], {"cache_claim": "c"}, id="claim"),
        pytest.param(
            ["--gpu-image", "b", "--gpus", "train=8", "--gpus", "evaluate=0"],
            {"gpu_image": "b", "gpus": {"train": 8, "evaluate": 0}},
            id="gpus",
        ),
    ],
)
def test_images_are_passed_as_given(words, arguments):
    assert images_of(_parser().parse_args(["compile", *words])) == arguments


@pytest.mark.parametrize("gpus", ["train", "=8", "train=", "train=-1", "train=many", "train=100"])
def test_gpus_are_numbers_of_tasks(gpus):
    with pytest.raises(ConfigError, match="TASK=N"):
        images_of(_parser().parse_args(["compile", "--gpus", gpus]))


@pytest.fixture
def finished(tmp_path):
    """A folder of runs with one finished run of two manifests."""
    root = f"file://{tmp_path}"

    def published(kind, inputs):
        folder = tmp_path / "work" / kind
        folder.mkdir(parents=True)
        (folder / "data").write_text(kind)
        made_by = ProducedBy(step=kind, version="1", git_commit="abcdef", config_sha256="0")
        return publish(folder, storage_root=root, kind=kind, produced_by=made_by, inputs=inputs)

    corpus = published("corpus", {})
    registration = published("registration", {"corpus": corpus})
    (tmp_path / "r1").mkdir()
    links = {"registration": {"uri": registration.uri}}
    (tmp_path / "r1" / "summary.json").write_text(json.dumps({"lineage": links}))
    (tmp_path / "latest").symlink_to("r1")
    return tmp_path, corpus, registration


@pytest.mark.parametrize("what", ["r1", "latest"])
def test_lineage_of_a_run(finished, capsys, what):
    runs, corpus, registration = finished
    main(["lineage", what, "--runs-dir", str(runs)])
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(f"registration {registration.digest[:16]}  registration at commit abcdef", first)
    assert re.match(f"  corpus {corpus.digest[:16]}", second)


def test_lineage_of_a_manifest(finished, capsys):
    _, _, registration = finished
    path = f"{registration.uri.removeprefix('file://')}/manifest.json"
    assert Manifest.read(path) == registration
    main(["lineage", path])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_lineage_of_an_unknown_run_ends_with_2(tmp_path, capsys):
    assert exit_code_of("lineage", "r9", "--runs-dir", str(tmp_path)) == 2
    assert "r9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "elsewhere", [pytest.param(True, id="stored elsewhere"), pytest.param(False, id="stored here")]
)
def test_results_are_in_the_folder_of_runs_wherever_they_are_stored(tmp_path, elsewhere):
    folder = RunFolder(tmp_path / "runs", "r1")
    root = tmp_path / "bucket" if elsewhere else folder.root
    (root / "r1").mkdir(parents=True)
    (root / "r1" / "summary.json").write_text('{"run_id": "r1"}')
    (root / "r1" / "report.html").write_text("<p>")
    assert _bring_home(f"file://{root}/", folder) == {"run_id": "r1"}
    assert (folder.results / "report.html").read_text() == "<p>"


def test_a_run_that_stored_nothing_is_no_success(tmp_path):
    with pytest.raises(MissingError, match=r"r1/summary\.json does not exist"):
        _bring_home(f"file://{tmp_path}", RunFolder(tmp_path, "r1"))


@pytest.mark.parametrize(("decision", "reason"), [("train", ""), ("known", "version 3 knows it")])
def test_a_run_that_ended_early_says_why_and_one_that_went_on_does_not(tmp_path, decision, reason):
    folder = RunFolder(tmp_path, "r1")
    folder.results.mkdir()
    resolved = {"decision": decision, "reason": "version 3 knows it"}
    (folder.results / "resolved.json").write_text(json.dumps(resolved))
    assert _reason_for_nothing(f"file://{tmp_path}/", folder) == reason
