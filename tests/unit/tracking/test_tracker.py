"""The tracker's promises, on a run double for outages and on MLflow's SQLite store for the rest."""

import math
from pathlib import Path
from uuid import uuid4

import pytest

from components.contracts.errors import TrackingError
from components.tracking import open_client, open_tracker, read_metrics
from components.tracking.client import without_credentials
from components.tracking.metrics_file import MetricsFile
from components.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def server(store_uri: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    for name in ("MLFLOW_RUN_ID", "SEARCHR1_MLFLOW_PARENT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    return open_client(store_uri)


def steps_of(server, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in server.get_metric_history(run_id, name))


def parent_of(server) -> str:
    return server.create_run(server.create_experiment(f"parents-{uuid4()}")).info.run_id


def test_a_run_carries_params_tags_metrics_and_status(server, tmp_path: Path) -> None:
    params = {
        "steps": 3,
        "optimizer": {"lr": 1e-6},
        "note": "x" * 9000,
        "sets": ["nq"],
        **dict.fromkeys(map(str, range(120)), 1),
    }
    with open_tracker("train-ppo", tmp_path, {"base_model": "tiny", "long": "y" * 9000}, params) as tracker:
        tracker.log(1, {"reward/mean": 0.5})
        tracker.log(2, {"reward/mean": 0.75})
        (tmp_path / "report.html").write_text("<p>")
        tracker.log_artifact(tmp_path / "report.html", "report")
    run = server.get_run(tracker.run_id)
    assert (run.info.run_name, run.info.status) == ("train-ppo", "FINISHED")
    assert run.data.params["cfg/optimizer.lr"] == "1e-06"
    assert run.data.params["cfg/sets"] == '["nq"]'
    assert len(run.data.params) == 124
    assert run.data.tags["base_model"] == "tiny"
    assert steps_of(server, tracker.run_id, "reward/mean") == [(1, 0.5), (2, 0.75)]
    assert [file.path for file in server.list_artifacts(tracker.run_id, "report")] == ["report/report.html"]
    assert tracker.mlflow == {"run_id": tracker.run_id, "url": tracker.url}
    assert tracker.url.endswith(f"/runs/{tracker.run_id}")


def test_the_folder_resumes_its_run_without_repeating_steps(server, tmp_path: Path) -> None:
    first = open_tracker("train", tmp_path, params={"lr": 1})
    for step in range(1, 6):
        first.log(step, {"loss": float(step)})
    second = open_tracker("train", tmp_path, params={"lr": 2, "new": 3})
    for step in range(4, 8):
        second.log(step, {"loss": step * 10.0})
    second.close()
    assert second.run_id == first.run_id
    run = server.get_run(first.run_id)
    assert steps_of(server, first.run_id, "loss") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 60), (7, 70)]
    assert [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 40, 50, 60, 70]
    assert (run.data.tags["attempt"], run.data.tags["resumed_from_step"]) == ("2", "5")
    assert run.data.tags["param_drift"] == '{"cfg/lr": ["1", "2"]}'
    assert (run.data.params["cfg/lr"], run.data.params["cfg/new"]) == ("1", "3")
    assert run.info.status == "FINISHED"


def test_a_resumed_run_is_running_again(server, tmp_path: Path) -> None:
    open_tracker("train", tmp_path).close("FAILED")
    again = open_tracker("train", tmp_path)
    assert server.get_run(again.run_id).info.status == "RUNNING"


def test_a_deleted_run_is_not_resumed(server, tmp_path: Path) -> None:
    first = open_tracker("train", tmp_path)
    server.delete_run(first.run_id)
    assert open_tracker("train", tmp_path).run_id != first.run_id


def test_children_are_found_again_by_name_and_parameters(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = parent_of(server)
    monkeypatch.setenv("SEARCHR1_MLFLOW_PARENT_RUN_ID", parent)
    train = open_tracker("train", tmp_path / "pod-1", params={"search": True})
    without = open_tracker("train", tmp_path / "pod-2", params={"search": False})
    evaluate = open_tracker("evaluate", tmp_path / "pod-3", params={"search": True})
    retried = open_tracker("train", tmp_path / "pod-4", params={"search": True})
    assert train.run_id == retried.run_id
    assert len({train.run_id, without.run_id, evaluate.run_id}) == 3
    for tracker in (train, without, evaluate):
        run = server.get_run(tracker.run_id)
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.info.experiment_id == server.get_run(parent).info.experiment_id


def test_a_resumed_folder_moves_below_the_present_parent(server, tmp_path: Path, monkeypatch) -> None:
    first = open_tracker("train", tmp_path)
    parent = parent_of(server)
    monkeypatch.setenv("SEARCHR1_MLFLOW_PARENT_RUN_ID", parent)
    assert open_tracker("train", tmp_path).run_id == first.run_id
    assert server.get_run(first.run_id).data.tags["mlflow.parentRunId"] == parent


def test_a_launchers_run_is_attached_to_and_left_running(server, tmp_path: Path, monkeypatch) -> None:
    run_id = parent_of(server)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with open_tracker("train", tmp_path, {"kfp.task": "train"}, {"steps": 2}) as tracker:
        tracker.log(1, {"loss": 1.0})
    run = server.get_run(run_id)
    assert tracker.run_id == run_id
    assert (run.info.status, run.data.tags["kfp.task"]) == ("RUNNING", "train")


@pytest.mark.parametrize(
    ("error", "status"),
    [pytest.param(ValueError, "FAILED", id="error"), pytest.param(KeyboardInterrupt, "KILLED", id="signal")],
)
def test_the_status_is_true(server, tmp_path: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), open_tracker("train", tmp_path) as tracker:
        raise error
    assert server.get_run(tracker.run_id).info.status == status


def test_values_that_are_not_finite_are_counted_not_sent(server, tmp_path: Path) -> None:
    tracker = open_tracker("train", tmp_path)
    tracker.log(1, {"loss": math.nan, "ratio/max": math.inf, "kl": 0.5})
    assert steps_of(server, tracker.run_id, "kl") == [(1, 0.5)]
    assert steps_of(server, tracker.run_id, "health/nonfinite") == [(1, 2.0)]
    assert steps_of(server, tracker.run_id, "loss") == []
    record = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert math.isnan(record["loss"])
    assert record["health/nonfinite"] == 2


def test_two_logs_of_one_step_keep_each_metric_once(server, tmp_path: Path) -> None:
    tracker = open_tracker("train", tmp_path)
    tracker.log(1, {"loss": 1.0})
    tracker.log(1, {"em/nq": 0.5, "loss": 2.0})
    assert steps_of(server, tracker.run_id, "loss") == [(1, 1.0)]
    assert steps_of(server, tracker.run_id, "em/nq") == [(1, 0.5)]


def test_without_a_server_there_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    with open_tracker("train", tmp_path) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.log_artifact(tmp_path / "absent")
    assert (tracker.run_id, tracker.url, tracker.mlflow) == ("", "", {})
    assert [record["loss"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1.0]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        pytest.param(
            {"MLFLOW_TRACKING_URI": "http://user:hunter2@127.0.0.1:9"}, "tracking: http://127.0.0.1:9", id="no server"
        ),
        pytest.param({"MLFLOW_RUN_ID": "abc", "MLFLOW_TRACKING_URI": ""}, "MLFLOW_TRACKING_URI is not", id="no URI"),
        pytest.param({"MLFLOW_RUN_ID": "abc"}, "Run with id=abc not found", id="unknown run"),
    ],
)
def test_opening_fails_fast(server, tmp_path: Path, monkeypatch, environment: dict, says: str) -> None:
    for name, value in ({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"} | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match=says) as raised:
        open_tracker("train", tmp_path)
    assert "hunter2" not in str(raised.value)


class FlakyRun:
    """Fails while `down` is set."""

    run_id, url = "r", "u"

    def __init__(self) -> None:
        self.down, self.calls, self.points, self.status = False, 0, [], ""

    def log(self, points) -> None:
        self.calls += 1
        if self.down:
            raise TrackingError("no answer")
        self.points += [(point.step, point.name) for point in points if point.name == "loss"]

    def log_artifact(self, path: Path, folder: str) -> None:
        raise TrackingError("no answer")

    def finish(self, status: str) -> None:
        self.status = status


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_an_outage_warns_once_and_is_made_up_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, clock = FlakyRun(), Clock()
    tracker = Tracker(MetricsFile(tmp_path), run, clock_s=clock)
    tracker.log(1, {"loss": 1.0})
    run.down = True
    for step in range(2, 9):
        clock.now_s += 10
        tracker.log(step, {"loss": 1.0})
    assert run.calls == 3
    run.down = False
    clock.now_s += 60
    tracker.log(9, {"loss": 1.0})
    tracker.log_artifact(tmp_path / "x")
    assert run.points == [(step, "loss") for step in range(1, 10)]
    assert capsys.readouterr().err.count("warning") == 1


def test_an_outage_to_the_end_loses_nothing_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = FlakyRun()
    run.down = True
    with Tracker(MetricsFile(tmp_path), run) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.log(2, {"loss": 1.0})
    assert run.status == "FINISHED"
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert "4 points never reached the tracking server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        pytest.param("postgresql://u:p@db/x", "postgresql://db/x", id="database"),
        pytest.param("at http://u:p@h:1 and https://v@i", "at http://h:1 and https://i", id="several"),
        pytest.param("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db", id="nothing to hide"),
    ],
)
def test_without_credentials(text: str, clean: str) -> None:
    assert without_credentials(text) == clean
