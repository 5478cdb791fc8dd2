"""A loopback proxy in front of a server that fails on demand: refuses, cuts answers short, hangs up."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

TIMEOUT_S = 30.0
Fault = Literal["busy", "cut", "hang up", "lose the answer"]
"""`busy` answers 503 without asking the server; `cut` sends half of its answer; `hang up` closes before the server
hears of the request, `lose the answer` after it has carried it out."""
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class FaultyProxy:
    """What the proxy does to the requests to come."""

    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    """Method, path and query of every request, in the order of their arrival."""
    _faults: list[tuple[Callable[[str], bool], Fault]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, fault: Fault, times: int, matching: Callable[[str], bool] = lambda request: True) -> None:
        """Let the next `times` requests fail whose line `matching` accepts."""
        with self._lock:
            self._faults += [(matching, fault)] * times

    def fault_of(self, request: str) -> Fault | None:
        """Return how a request fails, and note it."""
        with self._lock:
            self.requests.append(request)
            for number, (matching, fault) in enumerate(self._faults):
                if matching(request):
                    del self._faults[number]
                    return fault
        return None


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """Hold a proxy in front of the server at `upstream`."""
    proxy, server_name = FaultyProxy(), urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.fault_of(f"{self.command} {self.path}")
            if fault == "hang up":
                self.close_connection = True
            elif fault == "busy":
                self._answer(503, [("Content-Type", "application/xml")], BUSY)
            else:
                # The name of the host is part of what the client signed.
                connection = http.client.HTTPConnection(server_name, timeout=TIMEOUT_S)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if fault == "lose the answer":
                    self.close_connection = True
                else:
                    self._answer(answer.status, answer.getheaders(), content, cut=fault == "cut")

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
            self.send_response_only(status)
            named = {name.lower(): value for name, value in headers}
            named.setdefault("content-length", str(len(content)))
            named.pop("transfer-encoding", None)
            for name, value in named.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
