"""All steps of one pipeline run share one parent, also where nobody ran before them."""

from uuid import uuid4

import pytest

from components.contracts.errors import TrackingError
from components.tracking import open_client, open_tracker, parent, run_url
from components.tracking.parent import close_parent, experiment_id, open_parent, parent_run_id


@pytest.fixture(scope="module")
def store_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def server(store_uri, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "SEARCHR1_MLFLOW_PARENT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("SEARCHR1_RUN_ID", str(uuid4()))
    return open_client(store_uri)


def test_steps_of_one_run_have_one_parent_and_another_run_has_its_own(server, tmp_path, monkeypatch):
    url = open_parent()
    trackers = [open_tracker(name, tmp_path / name) for name in ("train", "evaluate")]
    parents = {server.get_run(tracker.run_id).data.tags["mlflow.parentRunId"] for tracker in trackers}
    assert parents == {url.rpartition("/")[2]}
    monkeypatch.setenv("SEARCHR1_RUN_ID", str(uuid4()))
    other = open_tracker("train", tmp_path / "other")
    assert server.get_run(other.run_id).data.tags["mlflow.parentRunId"] not in parents


def test_of_two_that_were_made_at_once_the_older_counts(server, store_uri, monkeypatch):
    experiment = experiment_id(server, store_uri)
    tags = {"searchr1.run_id": "r-twice"}
    monkeypatch.setenv("SEARCHR1_RUN_ID", "r-twice")
    newer, older = (server.create_run(experiment, start_time=time, tags=tags).info.run_id for time in (2000, 1000))
    assert parent_run_id(server, experiment) == older
    # A step that looks before the older one can be seen makes its own, and withdraws it.
    server.delete_run(newer)
    looks = iter([[], [server.get_run(older)]])
    monkeypatch.setattr(parent, "_runs_of", lambda *_: next(looks))
    assert parent_run_id(server, experiment) == older
    assert {run.info.run_id for run in server.search_runs([experiment], "tags.`searchr1.run_id` = 'r-twice'")} == {
        older
    }


def test_a_given_parent_is_taken_and_left_to_its_maker(server, monkeypatch, store_uri):
    given = server.create_run(experiment_id(server, store_uri)).info.run_id
    monkeypatch.setenv("SEARCHR1_MLFLOW_PARENT_RUN_ID", given)
    assert parent_run_id(server, "0") == given
    assert close_parent("FINISHED").endswith(given)
    assert server.get_run(given).info.status == "RUNNING"


def test_the_end_of_the_run_ends_its_parent(server):
    run_id = open_parent().rpartition("/")[2]
    assert close_parent("FAILED").endswith(run_id)
    assert server.get_run(run_id).info.status == "FAILED"


@pytest.mark.parametrize("run_id", ["", "x' or 'a' = 'a"], ids=["none", "hostile"])
def test_without_a_proper_run_id_there_is_no_parent(server, monkeypatch, run_id):
    monkeypatch.setenv("SEARCHR1_RUN_ID", run_id)
    assert open_parent() == ""
    assert close_parent("FINISHED") == ""


def test_without_a_server_there_is_none(server, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert open_parent() == ""
    assert close_parent("FINISHED") == ""


def test_a_server_that_is_away_is_an_infrastructure_error(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(TrackingError):
        open_parent()


@pytest.mark.parametrize(
    ("seen_at", "expected"),
    [
        pytest.param("", "http://searchr1-mlflow:5000/#/experiments/1/runs/r", id="the address of the steps"),
        pytest.param("https://me:pass@mlflow.example/", "https://mlflow.example/#/experiments/1/runs/r", id="people's"),
    ],
)
def test_links_lead_where_people_are(monkeypatch, seen_at, expected):
    monkeypatch.setenv("SEARCHR1_MLFLOW_UI_URL", seen_at)
    assert run_url("http://searchr1-mlflow:5000", "1", "r") == expected
