"""Progress is reported to the Trainer where it asks for it, and never disturbs the training."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from components.train.checkpoint import TrainState
from components.train.trainjob_progress import ProgressReport


@pytest.fixture
def received(monkeypatch, tmp_path):
    """Requests to a stand-in for the Trainer's status server."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.headers["Authorization"], body))
            self.send_response(500 if server.broken else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.broken = False
    requests_and_server = (requests, server)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    (tmp_path / "token").write_text("let-me-in\n")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", f"http://127.0.0.1:{server.server_port}/status")
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield requests_and_server
    server.shutdown()
    server.server_close()


def announce(report, *steps):
    for step in steps:
        report.announce(TrainState(step=step), {"reward/mean": 0.25, "grad_norm": 9.0})


def test_progress_is_posted_as_the_trainer_expects_it(received):
    announce(ProgressReport(steps=8, done=0), 2)
    ((authorization, body),) = received[0]
    assert authorization == "Bearer let-me-in"
    status = body["trainerStatus"]
    assert status["progressPercentage"] == 25
    assert status["estimatedRemainingSeconds"] >= 0
    assert status["metrics"] == [{"name": "reward/mean", "value": "0.25"}]
    assert status["lastUpdatedTime"].endswith("+00:00")


def test_reports_are_rare_but_the_last_step_is_among_them(received):
    announce(ProgressReport(steps=8, done=0), *range(1, 9))
    assert [body["trainerStatus"]["progressPercentage"] for _, body in received[0]] == [12, 100]


def test_a_server_that_fails_is_left_alone(received, capsys):
    received[1].broken = True
    announce(ProgressReport(steps=8, done=0, every_s=0.0), 1, 2, 3)
    assert len(received[0]) == 1
    assert "could not be reported" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["URL", "TOKEN"])
def test_nothing_is_sent_where_the_trainer_does_not_ask(received, monkeypatch, variable):
    monkeypatch.delenv(f"KUBEFLOW_TRAINER_SERVER_{variable}")
    announce(ProgressReport(steps=8, done=0), 1)
    assert received[0] == []
