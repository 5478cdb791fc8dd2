"""Servers of this process: S3 for every test that stores something, and a stand-in for the Hugging Face Hub."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

COMMIT = "c0ffee" + "0" * 34
LARGE_BYTES = 4096
"""Files from this size on are stored as large files, named by their SHA-256."""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_root(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/team/project"


@dataclass
class HubStandIn:
    """The data set and the model `owner/name` on a loopback server; `files` may change between requests."""

    url: str = ""
    home: Path = Path()
    files: dict[str, bytes] = field(default_factory=dict)
    damaged: dict[str, list[bytes]] = field(default_factory=dict)
    """Path -> bodies sent instead of the true one, one after the other."""
    requests: list[str] = field(default_factory=list)

    def python(self, code: str, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess:
        """Run `code` in a process of its own: the client library reads its settings once, when it is imported."""
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(self.home),
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=110)


def _entry(name: str, data: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(data), "oid": _git_id(data)}
    if len(data) >= LARGE_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(self.path.partition("?")[0])
            hub.requests.append(path)
            name = path.removeprefix("/datasets").removeprefix(f"/owner/name/resolve/{COMMIT}/")
            match path.removeprefix("/api/datasets/owner/name/").removeprefix("/api/models/owner/name/"):
                case "revision/main" | "revision/v1":
                    self._send_json({"id": "owner/name", "sha": COMMIT})
                case tree if tree == f"tree/{COMMIT}":
                    self._send_json([_entry(name, data) for name, data in hub.files.items()])
                case _ if name in hub.files:
                    self._send_file(name)
                case unknown:
                    kind = "RevisionNotFound" if unknown.startswith("revision/") else "RepoNotFound"
                    self._send(404, b"", {"X-Error-Code": kind})

        def _send_json(self, content):
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send_file(self, name):
            data, entry = hub.files[name], _entry(name, hub.files[name])
            digest = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
            bodies = hub.damaged.get(name) if self.command == "GET" else None
            self._send(200, bodies.pop(0) if bodies else data, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'})

        def _send(self, status, body, headers):
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            self.close_connection = True

    return Handler


@pytest.fixture
def hub(tmp_path):
    stand_in = HubStandIn(home=tmp_path / "hub-home")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stand_in))
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield stand_in
    server.shutdown()
    server.server_close()
