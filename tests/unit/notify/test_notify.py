"""The end of a run is told in full, and telling it can fail without failing the run."""

import json
from types import SimpleNamespace

import pytest

from components.notify import main
from components.notify.main import notify_task
from components.notify.webhook import WebhookError
from components.storage import open_storage
from components.storage.failures import TaskFailures
from components.tracking import parent

FAILURE = {
    "step": "train",
    "type": "CorpusError",
    "message": "line 2\nmend <b>it</b>",
    "exit_code": 2,
    "time_s": 1.0,
    "last_lines": ["fetching http://user:pass@host/x", "gone"],
}


@pytest.fixture
def told(monkeypatch, tmp_path):
    """Notify about run r1 and return what was posted, and the texts of card and metrics."""
    monkeypatch.setenv("SEARCHR1_RUN_ID", "r1")
    monkeypatch.setenv("KFP_RUN_ID", "u-1")
    monkeypatch.setenv("SEARCHR1_KFP_UI_URL", "https://me:pass@kubeflow.example/pipeline/")
    monkeypatch.setenv("SEARCHR1_WEBHOOK_URL", "https://hook.example/S3CRET")
    posted = []
    monkeypatch.setattr(main, "post", lambda url, body: posted.append(json.loads(body)))

    def run(state, error_message="", root=f"file://{tmp_path}"):
        outputs = {
            name: SimpleNamespace(path=str(tmp_path / "out" / name), metadata={}) for name in ("card", "metrics")
        }
        notify_task(state, error_message, root, outputs)
        texts = {name: (tmp_path / "out" / name).read_text() for name in outputs}
        return posted[0] if posted else {}, texts

    return run


def store(tmp_path, name, document):
    open_storage(f"file://{tmp_path}/r1").put_bytes(json.dumps(document).encode(), name)


def test_a_failure_names_task_reason_lines_and_links(told, tmp_path):
    TaskFailures(f"file://{tmp_path}", "r1", "train-sft", 2).keep(FAILURE)
    TaskFailures(f"file://{tmp_path}", "r1", "index", 2).keep(FAILURE | {"time_s": 2.0})
    message, texts = told("FAILED")
    assert message == {
        "schema_version": 1,
        "run_id": "r1",
        "state": "failed",
        "text": "Run r1 failed in train-sft: CorpusError: line 2",
        "task": "train-sft",
        "reason": "CorpusError: line 2\nmend <b>it</b>",
        "last_lines": ["fetching http://host/x", "gone"],
        "failed_tasks": ["train-sft", "index"],
        "links": {"kfp": "https://kubeflow.example/pipeline/#/runs/details/u-1"},
    }
    assert "\n    mend <b>it</b>\n" in texts["card"]
    assert json.loads(texts["metrics"]) == {"failed_tasks": 2, "delivered": 1}


def test_no_password_of_an_error_is_told(told, tmp_path):
    failure = FAILURE | {"message": "s3://user:pass@host/x is gone"}
    TaskFailures(f"file://{tmp_path}", "r1", "index", 2).keep(failure)
    message, texts = told("FAILED")
    assert message["reason"] == "CorpusError: s3://host/x is gone" and message["reason"] in message["text"]
    assert "pass" not in texts["card"]


def test_a_step_whose_pod_never_started_left_no_record(told):
    message, _ = told("FAILED")
    assert "could not start" in message["reason"]
    assert message["task"] == ""


def test_a_killed_step_is_named(told, tmp_path):
    TaskFailures(f"file://{tmp_path}", "r1", "index", 2).begin("index")
    message, _ = told("FAILED")
    assert (message["task"], message["failed_tasks"]) == ("index", ["index"])
    assert "out of memory" in message["reason"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param("quota exceeded", "quota exceeded", id="as it is"),
        pytest.param("no image at https://me:pass@host/x", "no image at https://host/x", id="without a password"),
    ],
)
def test_what_kubeflow_says_stands_in_for_a_record(told, said, reason):
    message, _ = told("FAILED", said)
    assert (message["reason"], message["text"]) == (reason, f"Run r1 failed: {reason}")


def test_a_success_tells_the_decision_and_where_the_report_is(told, tmp_path):
    store(tmp_path, "resolved.json", {"decision": "train", "reason": "new"})
    store(tmp_path, "summary.json", {"registry": {"name": "m", "version": "3", "decision": "promoted"}})
    store(tmp_path, "report.html", {})
    message, _ = told("SUCCEEDED")
    assert (message["state"], message["text"]) == ("succeeded", "Run r1 succeeded: m version 3 promoted")
    assert message["links"]["report"] == f"file://{tmp_path}/r1/report.html"


def test_a_failure_that_a_retry_mended_is_none(told, tmp_path):
    TaskFailures(f"file://{tmp_path}", "r1", "index", 2).keep(FAILURE)
    assert told("SUCCEEDED")[0]["failed_tasks"] == []


def test_a_run_that_found_nothing_new_says_why(told, tmp_path):
    store(tmp_path, "resolved.json", {"decision": "known", "reason": "version 3 knows it"})
    message, texts = told("SUCCEEDED")
    assert (message["state"], message["text"]) == ("nothing_new", "Run r1: version 3 knows it")
    assert texts["card"].startswith("# Nothing new")


def test_without_a_webhook_it_says_so(told, monkeypatch, capsys):
    monkeypatch.delenv("SEARCHR1_WEBHOOK_URL")
    message, texts = told("SUCCEEDED")
    assert message == {}
    assert json.loads(texts["metrics"])["delivered"] == 0
    assert "SEARCHR1_WEBHOOK_URL is not set" in capsys.readouterr().out


def refuse(*_):
    raise WebhookError("HTTP 500")


def break_down(*_):
    raise ZeroDivisionError("https://hook.example/S3CRET")


@pytest.mark.parametrize("trouble", [refuse, break_down])
def test_trouble_with_telling_fails_nothing_and_prints_no_address(told, monkeypatch, tmp_path, capsys, trouble):
    monkeypatch.setattr(main, "post", trouble)
    notify_task("FAILED", "", f"file://{tmp_path}", {})
    said = capsys.readouterr().out
    assert "warning" in said
    assert "S3CRET" not in said


@pytest.mark.parametrize(("state", "ended"), [("FAILED", "failed"), ("SUCCEEDED", "succeeded")])
def test_a_storage_that_cannot_be_read_still_tells_the_end(told, state, ended):
    message, _ = told(state, "no image at https://me:pass@host/x", root="nowhere://x")
    assert (message["run_id"], message["state"]) == ("r1", ended)
    assert message["text"] == f"Run r1 {ended}; its records cannot be read"
    assert message["reason"] == "no image at https://host/x"


@pytest.mark.parametrize(("state", "status"), [("FAILED", "FAILED"), ("SUCCEEDED", "FINISHED")])
def test_the_mlflow_run_that_the_steps_made_is_ended_and_linked(told, monkeypatch, tmp_path, state, status):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    parent.open_parent()
    message, _ = told(state)
    assert "/runs/" in message["links"]["mlflow"]
    client = parent.open_client(uri)
    assert client.get_run(message["links"]["mlflow"].rpartition("/")[2]).info.status == status
