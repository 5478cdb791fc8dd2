"""Runs on a cluster: started, watched, cancelled; against the stub that knows the official description."""

import io
import json
import uuid
from functools import partial

import pytest
import yaml

from pipeline import cluster_runs
from pipeline.cli import main
from pipeline.cluster import Cluster
from pipeline.cluster_commands import ONLY_NEW_CORPUS
from pipeline.compiled import compile_pipeline
from pipeline.parameters import PARAMETERS
from pipeline.resources import RESOURCES
from tests.contract.kfp_stub import NEVER

DEFAULTS = {one.name: one.default for one in PARAMETERS if one.name != ONLY_NEW_CORPUS}
SPEC = {
    "pipelineInfo": {"name": "search-r1"},
    "components": {"comp-data": {"dag": {"tasks": {"corpus": {}, "index": {}, "questions": {}}}}},
    "root": {
        "inputDefinitions": {"parameters": {name: {} for name in DEFAULTS}},
        "dag": {"tasks": {"resolve": {}, "data": {"componentRef": {"name": "comp-data"}}, "train": {}}},
    },
}
WORKFLOW = "search-r1-x7k2p"


def node(name, state, *, after=(), start="10:00:00", end="10:00:30"):
    """A node of the workflow as a server of 2.17 tells about it: the names of pods are those of its children alone."""
    times = {"start_time": f"2026-11-01T{start}Z", "end_time": f"2026-11-01T{end}Z" if end else NEVER}
    children = [{"pod_name": f"{WORKFLOW}-{child}"} for child in after]
    return {"task_id": str(uuid.uuid4()), "display_name": name, "state": state, **times, "child_tasks": children}


NODES = [
    node(WORKFLOW, "RUNNING", after=["system-dag-driver-1"], end=""),
    node("root-driver", "SUCCEEDED", after=["2"]),
    node("root", "RUNNING", after=["system-container-driver-3"], end=""),
    node("resolve-driver", "SUCCEEDED", after=["4"]),
    node("resolve", "SUCCEEDED", after=["5"]),
    node("executor", "SUCCEEDED", after=["system-container-impl-6"]),
    node("executor(0)", "SUCCEEDED", after=["system-container-driver-7"]),
    node("data-driver", "SUCCEEDED", after=["8"]),
    node("data", "RUNNING", after=["system-container-driver-9"], start="10:01:00", end=""),
    # Two steps at once: the one whose program never ran is the shorter one.
    node("questions", "SUCCEEDED", after=["12"], start="10:01:00", end="10:01:40"),
    node("executor", "SUCCEEDED", start="10:01:01", end="10:01:39"),
    node("corpus", "SUCCEEDED", after=["10"], start="10:01:00", end="10:01:02"),
    node("executor", "SKIPPED", start="10:01:01", end="10:01:01"),
    node("index", "FAILED", after=["11"], start="10:02:00", end="12:05:00"),
    node("executor", "FAILED", start="10:02:01", end="12:05:00"),
]


def told(capsys):
    return json.loads(capsys.readouterr().out)


def ended(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


@pytest.fixture
def server(kfp_server, tmp_path, monkeypatch):
    """The stub with a version of the pipeline, and no patience on our side."""
    package = tmp_path / "pipeline.yaml"
    package.write_text(yaml.safe_dump(SPEC))
    Cluster().upload(package, "search-r1", "")
    kfp_server.requests.clear()
    monkeypatch.setattr(cluster_runs.wait, "__defaults__", (0.0,))
    return kfp_server


@pytest.fixture
def run(server, capsys):
    main(["submit", "--name", "first", "--json"])
    started = told(capsys)
    server.requests.clear()
    record = server.get("run", started["run_id"])
    record["run_details"] = {"task_details": NODES}
    return record


# Submit


def test_submit_sends_the_form_and_tells_where_to_look(server, capsys):
    words = ["--seed", "5", "--set", "train.steps=4", "--set", "index.threads=2", "--storage-root", "s3://b/runs"]
    main(["submit", *words, "--service-account", "runner", "--experiment", "mine"])
    shown = capsys.readouterr().out
    sent = server.of("run")[0]
    assert sent["service_account"] == "runner"
    assert sent["experiment_id"] == server.of("experiment")[0]["experiment_id"]
    assert sent["runtime_config"]["parameters"] == DEFAULTS | {
        "p06_seed": 5,
        "p07_storage_root": "s3://b/runs",
        "p90_overrides": "train.steps=4\nindex.threads=2",
    }
    assert f"{server.url}/#/runs/details/{sent['run_id']}" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--set", "train.stepz=1"], "did you mean 'steps'", id="typo in a setting"),
        pytest.param(["--preset", "smal-world"], "did you mean 'small-world'", id="typo in the preset"),
        pytest.param(["--preset", "./mine.toml"], "file of this machine", id="preset of this machine"),
        pytest.param(["--preset", "mine.toml"], "file of this machine", id="preset of this folder"),
        pytest.param(["--storage-root", "runs"], "storage_root", id="storage of nowhere"),
    ],
)
def test_a_typo_costs_no_request(server, capsys, words, said):
    assert ended("submit", *words) == 2
    assert said in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--version", "sha-000"], "no version 'sha-000'", id="version"),
        pytest.param(["--pipeline", "other"], "no pipeline 'other'", id="pipeline"),
    ],
)
def test_submit_of_what_is_not_there(server, capsys, words, said):
    assert ended("submit", *words) == 2
    assert said in capsys.readouterr().err


def test_only_new_corpora_where_the_version_can_tell(server, capsys):
    assert ended("submit", "--only-new-corpus") == 2
    assert "cannot tell a new corpus" in capsys.readouterr().err
    server.of("version")[0]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]["p08_only_new_corpus"] = {}
    main(["submit", "--only-new-corpus"])
    assert server.of("run")[0]["runtime_config"]["parameters"]["p08_only_new_corpus"] == "yes"


def test_a_parameter_that_an_old_version_lacks_is_not_dropped(server, capsys):
    version = server.of("version")[0]
    del version["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]["p06_seed"]
    main(["submit", "--json"])
    assert "p06_seed" not in told(capsys)["parameters"]
    assert ended("submit", "--seed", "7") == 2
    assert "has no parameter p06_seed" in capsys.readouterr().err


def test_spec_with_a_platform_part_is_understood(server, capsys):
    version = server.of("version")[0]
    version["pipeline_spec"] = {"pipeline_spec": version["pipeline_spec"], "platform_spec": {}}
    main(["submit", "--name", "r"])
    capsys.readouterr()
    main(["status", "--json"])
    assert {task["name"] for task in told(capsys)["tasks"]} == {"resolve", "corpus", "index", "questions", "train"}


@pytest.mark.parametrize(
    ("state", "code"), [("SUCCEEDED", None), ("FAILED", 1), ("CANCELED", 1)], ids=["success", "failure", "cancelled"]
)
def test_wait_ends_with_the_run(server, capsys, state, code):
    def becomes(state, nodes, run):
        run["state"], run["run_details"] = state, {"task_details": nodes}

    running = node("train", "RUNNING", end="")
    steps = [("PENDING", []), ("RUNNING", [running]), ("RUNNING", [running]), (state, [node("train", state)])]
    server.before_run_is_told = [partial(becomes, *step) for step in [steps[0], *steps]]
    words = ["submit", "--wait", "--json"]
    assert (ended(*words) if code else main(words)) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == state
    assert [line.split(" ", 1)[1] for line in err.splitlines() if "train: " in line] == [
        "train: RUNNING",
        f"train: {state} after 30 s",
    ]
    if code:
        assert f"ended {state}" in err


def test_waiting_may_stop_while_the_run_goes_on(server, capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.cluster_runs.wait", interrupted)
        assert ended("submit", "--wait") == 130
    assert "The run goes on: searchr1 status" in capsys.readouterr().err
    assert server.of("run")[0]["state"] == "PENDING"


# Status


def test_status_tells_every_step(run, capsys):
    main(["status", run["run_id"], "--json"])
    status = told(capsys)
    assert [(task["name"], task["state"], task["duration_s"], task["cached"]) for task in status["tasks"]] == [
        ("resolve", "SUCCEEDED", 30.0, False),
        ("corpus", "SUCCEEDED", 2.0, True),
        ("questions", "SUCCEEDED", 40.0, False),
        ("index", "FAILED", 7380.0, False),
        ("train", "NOT_STARTED", None, False),
    ]
    assert status["finished_at"] is None


@pytest.mark.parametrize("what", ["latest", "first"])
def test_status_for_people(run, capsys, what):
    main(["status", what])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("first  PENDING")
    assert lines[-2].split() == ["index", "FAILED", "2", "h", "03", "min"]


def test_an_error_that_a_server_tells_steers_no_terminal(run, capsys):
    run["run_details"] = {"task_details": [NODES[-2] | {"error": {"code": 1, "message": "lost \x1b[2Jnode"}}]}
    main(["status"])
    assert "lost \ufffd[2Jnode" in capsys.readouterr().out


def test_steps_are_found_without_the_pipeline_too(run, server, capsys):
    server.of("version")[0]["pipeline_spec"] = {}
    main(["status", "--json"])
    assert {task["name"] for task in told(capsys)["tasks"]} == {"resolve", "corpus", "index", "questions", "data"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(["status", "fist"], 2, "did you mean 'first'", id="name"),
        pytest.param(["status", "00000000-0000-0000-0000-0000000000ff"], 2, "knows no run 00000000", id="id"),
        pytest.param(["status", "latest", "--experiment", "other"], 2, "no run in 'other' yet", id="empty experiment"),
        pytest.param(["cancel", "latest", "--experiment", "no"], 2, "no experiment 'no'", id="experiment"),
    ],
)
def test_runs_that_are_not_there(run, server, capsys, words, code, said):
    server.add("experiment", display_name="other")
    assert ended(*words) == code
    assert said in capsys.readouterr().err


def test_two_runs_of_one_name(run, capsys):
    main(["submit", "--name", "first"])
    assert ended("status", "first") == 2
    error = capsys.readouterr().err
    assert "more than one run 'first'" in error and run["run_id"] in error


# Cancel


def test_cancel_once(run, server, capsys):
    main(["cancel", "latest", "--yes", "--json"])
    assert told(capsys)["cancelled"] is True
    main(["cancel", "latest", "--yes", "--json"])
    assert told(capsys) == {"run_id": run["run_id"], "name": "first", "state": "CANCELING", "cancelled": False}
    assert [address for _, address, _ in server.writes] == [f"/apis/v2beta1/runs/{run['run_id']}:terminate"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stdin", "code", "cancelled"),
    [
        pytest.param(Terminal("y\n"), None, True, id="yes"),
        pytest.param(Terminal("\n"), "Nothing was changed", False, id="no"),
        pytest.param(io.StringIO("y\n"), 2, False, id="nobody there"),
    ],
)
def test_cancel_asks(run, server, monkeypatch, stdin, code, cancelled):
    monkeypatch.setattr("sys.stdin", stdin)
    assert (ended("cancel", "latest") if code else main(["cancel", "latest"])) == code
    assert bool(server.writes) == cancelled


# Rehearsals


REHEARSED = [
    pytest.param(["submit", "--name", "r"], ["/experiments", "/runs"], id="submit"),
    pytest.param(["schedule", "--every", "6h"], ["/experiments", "/recurringruns"], id="schedule"),
    pytest.param(
        ["upload", "--image", f"r.example/i@sha256:{'a' * 64}", "--pipeline", "new"],
        ["/pipelines", "/pipelines/upload_version"],
        id="upload",
    ),
]


@pytest.mark.parametrize(("words", "paths"), REHEARSED)
def test_a_rehearsal_tells_the_requests_and_sends_none(server, capsys, words, paths):
    main([*words, "--dry-run", "--json"])
    rehearsed = told(capsys)["requests"]
    assert server.writes == []
    assert [one["url"].removeprefix(server.url).partition("?")[0] for one in rehearsed] == [
        f"/apis/v2beta1{path}" for path in paths
    ]
    main(words)
    # Ids are not known before; all else is what is sent.
    for one, (method, address, body) in zip(rehearsed, server.writes, strict=True):
        assert one["method"] == method
        if "upload_version" in address:
            assert one["body"]["uploadfile"]["bytes"] == len(body)
        else:
            assert one["body"].keys() == body.keys()
            assert {k: v for k, v in one["body"].items() if k != "experiment_id"} == {
                k: v for k, v in body.items() if k != "experiment_id"
            }


def test_a_rehearsed_cancel(run, server, capsys):
    main(["cancel", "latest", "--dry-run"])
    assert f"POST {server.url}/apis/v2beta1/runs/{run['run_id']}:terminate" in capsys.readouterr().out
    assert server.writes == []


def test_a_rehearsed_change_of_a_schedule(server, capsys):
    main(["schedule", "--every", "6h", "--name", "n"])
    server.requests.clear()
    main(["schedule", "--every", "1d", "--name", "n", "--replace", "--dry-run"])
    assert "DELETE" in capsys.readouterr().out
    assert server.writes == []


def test_the_steps_of_the_compiled_pipeline_are_found_through_exit_handler_condition_and_groups(tmp_path):
    compile_pipeline(tmp_path / "pipeline.yaml")
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    assert sorted(cluster_runs.step_names(spec)) == sorted(RESOURCES)
