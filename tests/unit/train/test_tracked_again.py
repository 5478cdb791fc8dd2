"""A training that continues in another pod, or on another backend, is one run of the tracking server."""

from components.storage import open_storage
from components.train.config import TrainConfig
from components.train.main import _tracker


def test_the_next_attempt_attaches_to_the_run_of_the_last(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    storage, runs = open_storage(f"file://{tmp_path}/work"), []
    for attempt, launch in enumerate(({}, {"backend": "trainjob", "usd_per_gpu_hour": 3.0})):
        folder = tmp_path / f"pod-{attempt}"
        folder.mkdir()
        with _tracker(TrainConfig.parse({"launch": launch}), folder, storage) as tracker:
            runs.append(tracker.mlflow["run_id"])
    assert runs[0] == runs[1]
