"""Which requests are sent again: a write only where the server cannot have seen it."""

import contextlib
import io
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from kfp_server_api import Configuration

from components.contracts.errors import ClusterError
from pipeline.cluster_wire import Wire

RUNS = "/apis/v2beta1/runs"


def wire(port: int, deadline_s: float) -> tuple[Wire, str]:
    host = f"http://127.0.0.1:{port}"
    return Wire(Configuration(host=host), rehearse=False, deadline_s=deadline_s), host + RUNS


def test_a_write_that_found_no_server_is_sent_once_there_is_one(no_cluster):
    arrived = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            arrived.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    # Bound and not listening yet: whoever connects is refused.
    server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.server_bind()

    class Complaints(io.StringIO):
        def write(self, text):
            if not arrived and "does not answer; trying" in text:
                server.server_activate()
                threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            return super().write(text)

    sender, url = wire(server.server_port, 100)
    with contextlib.redirect_stderr(Complaints()):
        sender.request("POST", url, headers={"Content-Type": "application/json"}, body={})
    server.shutdown()
    server.server_close()
    assert arrived == [RUNS]


def test_a_write_that_may_have_arrived_is_not_sent_again(no_cluster):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = []

        def take_and_hang_up():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection.recv(1 << 16))
                    connection.close()

        threading.Thread(target=take_and_hang_up, daemon=True).start()
        sender, url = wire(listener.getsockname()[1], 5)
        with pytest.raises(ClusterError, match="whether the request arrived is not known"):
            sender.request("POST", url, headers={"Content-Type": "application/json"}, body={})
        assert len(connections) == 1


def test_a_write_that_never_left_is_not_in_doubt(no_cluster):
    sender, url = wire(9, 0)
    with pytest.raises(ClusterError, match="does not answer as it should: ") as raised:
        sender.request("POST", url, headers={"Content-Type": "application/json"}, body={})
    assert raised.value.exit_code == 75
