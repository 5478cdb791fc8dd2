"""Failure records outlive the pod, tell an automatic retry what not to repeat, and never get in the way."""

import pytest

from components.storage import open_storage
from components.storage.failures import TaskFailures, failures_of

USER = {"step": "corpus", "type": "CorpusError", "message": "line 3", "exit_code": 2, "time_s": 5.0}
RULE = USER | {"type": "TrainingStopped", "exit_code": 3}
BOUNDARY = USER | {"type": "StorageError", "exit_code": 75, "time_s": 3.0}


@pytest.fixture(params=["file", "s3"])
def root(request, tmp_path):
    return f"file://{tmp_path}" if request.param == "file" else request.getfixturevalue("s3_root")


def test_records_of_a_run_come_in_the_order_of_failing(root):
    TaskFailures(root, "r1", "corpus", 2).keep(USER)
    TaskFailures(root, "r1", "questions", 2).keep(BOUNDARY)
    TaskFailures(root, "r2", "index", 2).keep(USER)
    assert [record["task"] for record in failures_of(root, "r1")] == ["questions", "corpus"]


@pytest.mark.parametrize("final", [USER, RULE], ids=["user error", "rule of training"])
def test_what_would_end_the_same_way_is_repeated_by_every_automatic_retry_and_by_none_after_them(root, final):
    first = TaskFailures(root, "r1", "corpus", 2)
    assert first.to_repeat() == {}
    first.keep(final)
    repeated = [TaskFailures(root, "r1", "corpus", 2).to_repeat().get("message") for _ in range(3)]
    assert repeated == ["line 3", "line 3", None]
    assert failures_of(root, "r1")[0]["message"] == "line 3"


def test_what_a_retry_may_mend_is_tried_again(root):
    failures = TaskFailures(root, "r1", "corpus", 2)
    failures.keep(BOUNDARY)
    assert failures.to_repeat() == {}
    failures.forget()
    assert failures_of(root, "r1") == []


def test_an_attempt_that_is_killed_leaves_its_name_behind_those_that_say_why(root):
    TaskFailures(root, "r1", "train", 2).begin("train")
    TaskFailures(root, "r1", "corpus", 2).keep(USER | {"time_s": 2e9})
    assert [(record["task"], record["type"]) for record in failures_of(root, "r1")] == [
        ("corpus", "CorpusError"),
        ("train", "Killed"),
    ]
    again = TaskFailures(root, "r1", "train", 2)
    assert again.to_repeat() == {}
    again.begin("train")
    again.forget()
    assert [record["task"] for record in failures_of(root, "r1")] == ["corpus"]


def test_another_run_and_another_task_are_not_concerned(root):
    TaskFailures(root, "r1", "train", 2).keep(USER)
    assert TaskFailures(root, "r2", "train", 2).to_repeat() == {}
    assert TaskFailures(root, "r1", "train-sft", 2).to_repeat() == {}


def test_a_storage_that_fails_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    failures = TaskFailures(f"file://{tmp_path}/file", "r1", "corpus", 2)
    failures.keep(USER)
    failures.forget()
    assert failures.to_repeat() == {}
    assert "warning: the failure record" in capsys.readouterr().out


def test_without_a_run_nothing_is_kept(tmp_path):
    failures = TaskFailures(f"file://{tmp_path}", "", "corpus", 2)
    failures.keep(USER)
    failures.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_record_is_no_record(tmp_path):
    open_storage(f"file://{tmp_path}/r1/failures").put_bytes(b"{", "corpus.json")
    assert failures_of(f"file://{tmp_path}", "r1") == []
    assert TaskFailures(f"file://{tmp_path}", "r1", "corpus", 2).to_repeat() == {}


def test_a_task_is_known_by_its_environment(tmp_path, monkeypatch):
    for name, value in {"RUN_ID": "r1", "TASK": "train-sft", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"SEARCHR1_{name}", value)
    TaskFailures.of_environment(f"file://{tmp_path}", "train").keep(USER)
    (record,) = failures_of(f"file://{tmp_path}", "r1")
    assert (record["task"], record["retries_left"]) == ("train-sft", 1)


def test_a_run_in_which_nothing_failed_keeps_no_folder_for_failures(tmp_path):
    of_corpus, of_index = (TaskFailures(f"file://{tmp_path}", "r1", task, 2) for task in ("corpus", "index"))
    of_corpus.begin("corpus")
    of_index.keep(BOUNDARY)
    of_corpus.forget()
    assert [path.name for path in (tmp_path / "r1" / "failures").iterdir()] == ["index.json"]
    of_index.forget()
    assert list((tmp_path / "r1").iterdir()) == []
