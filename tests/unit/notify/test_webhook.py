"""The webhook gets JSON or is given up in bounded time; its address is a secret and shows up nowhere."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.notify import webhook
from components.notify.webhook import WebhookError, post


class Hook(BaseHTTPRequestHandler):
    """Answers with the next status and keeps what came."""

    statuses: list[int] = []
    received: list[tuple[str, str, bytes]] = []

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Hook.received.append((self.path, self.headers["Content-Type"], body))
        status = Hook.statuses.pop(0) if Hook.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Hook.statuses.clear()
    Hook.received.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/services/S3CRET"
    server.shutdown()
    server.server_close()


def waits(url: str, body: str = "{}") -> list[float]:
    waited: list[float] = []
    post(url, body, waited.append)
    return waited


def test_the_message_arrives_as_json(hook):
    text = json.dumps({"text": "$(rm -rf /) <script> \N{SNOWMAN}"}, ensure_ascii=False)
    assert waits(hook, text) == []
    ((path, kind, body),) = Hook.received
    assert (path, kind) == ("/services/S3CRET", "application/json; charset=utf-8")
    assert json.loads(body)["text"] == "$(rm -rf /) <script> \N{SNOWMAN}"


@pytest.mark.parametrize("status", [500, 503, 408, 425, 429])
def test_what_may_pass_is_tried_again(hook, status):
    Hook.statuses[:] = [status, status, 200]
    assert waits(hook) == [2.0, 4.0]
    assert len(Hook.received) == 3


@pytest.mark.parametrize(
    ("statuses", "tries"),
    [
        pytest.param([500] * 9, 3, id="down"),
        pytest.param([404], 1, id="refused"),
        pytest.param([302], 1, id="sent elsewhere"),
    ],
)
def test_then_it_is_given_up(hook, statuses, tries):
    Hook.statuses[:] = statuses
    with pytest.raises(WebhookError, match=f"HTTP {statuses[0]}") as raised:
        waits(hook)
    assert len(Hook.received) == tries
    assert "S3CRET" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://127.0.0.1:9/S3CRET", id="nobody listens"),
        pytest.param("file:///etc/S3CRET", id="no web address"),
        pytest.param("http://S3CRET invalid/", id="malformed"),
        pytest.param("http://[S3CRET/", id="not even split"),
    ],
)
def test_no_error_holds_the_address(url, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(WebhookError) as raised:
        waits(url)
    assert "S3CRET" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_an_answer_that_never_comes_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.05)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(WebhookError, match=r"(?i)timeout"):
        waits(f"http://127.0.0.1:{silent.getsockname()[1]}/")
