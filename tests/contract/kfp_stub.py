"""A Kubeflow Pipelines API server in this process: knows pipelines, runs and schedules, runs nothing.

Every request and every answer is held against the official description (`kfp_description`); what does not fit is in
`problems`, and the fixture fails the test for it.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from tests.contract import kfp_description as description

DEFAULT_PAGE_SIZE = 20
NEVER = "1970-01-01T00:00:00Z"
"""What the server writes for a time that has not come."""


class Refused(Exception):
    """An answer that is an error: status and words."""


@dataclass
class KfpStub:
    """State of the server; tests read and write it."""

    url: str = ""
    multi_user: bool = False
    token: str = ""
    """Asked for, when not empty."""
    records: dict[str, dict[str, dict]] = field(
        default_factory=lambda: {kind: {} for kind in ("experiment", "pipeline", "version", "run", "recurring_run")}
    )
    scripted: list[tuple[int, str, bytes]] = field(default_factory=list)
    """Answers given instead of true ones, one a request: status, content type, body."""
    before_run_is_told: list[Callable[[dict], None]] = field(default_factory=list)
    """Changes of a run, one before each time it is asked for: its progress."""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """(method, address without host, body) of everything that came."""
    problems: list[str] = field(default_factory=list)
    clock: int = 0

    @property
    def writes(self) -> list[tuple[str, str, Any]]:
        return [one for one in self.requests if one[0] != "GET"]

    def of(self, kind: str) -> list[dict]:
        return list(self.records[kind].values())

    def add(self, kind: str, **fields: Any) -> dict:
        """Store a record with an id and a time of its own, later than all before."""
        self.clock += 1
        identity = "pipeline_version_id" if kind == "version" else f"{kind}_id"
        times = {"created_at": f"2026-11-01T00:00:{self.clock:02}Z"}
        record = {identity: str(uuid.UUID(int=self.clock)), **times, **fields}
        self.records[kind][record[identity]] = record
        return record

    def get(self, kind: str, identity: str) -> dict:
        if identity not in self.records[kind]:
            raise Refused(404, f"{kind} {identity} not found")
        return self.records[kind][identity]

    def listed(self, kind: str, key: str, query: dict[str, str], **equal: str) -> dict:
        found = [one for one in self.of(kind) if all(one.get(name) == value for name, value in equal.items())]
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] == "EQUALS"
            found = [one for one in found if one.get(predicate["key"]) == predicate["string_value"]]
        name, _, direction = query.get("sort_by", "created_at").partition(" ")
        found.sort(key=lambda one: one[name], reverse=direction == "desc")
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or DEFAULT_PAGE_SIZE)
        answer = {key: found[start : start + size], "total_size": len(found)}
        return answer if start + size >= len(found) else answer | {"next_page_token": str(start + size)}

    def scope(self, query: dict[str, str]) -> None:
        """Refuse a namespace where there is one team, and its absence where there are several."""
        if self.multi_user != bool(query.get("namespace")):
            raise Refused(400, "Invalid input error: namespace")

    def answer(self, name: str, ids: list[str], query: dict[str, str], body: Any) -> dict:
        """What the server says to the call `name`."""
        match name:
            case "healthz_service_get_healthz":
                return {"multi_user": self.multi_user, "pipeline_store": "database"}
            case "experiment_service_list_experiments":
                self.scope(query)
                return self.listed("experiment", "experiments", query)
            case "experiment_service_create_experiment":
                self.scope(body)
                return self.add("experiment", **body)
            case "pipeline_service_list_pipelines":
                return self.listed("pipeline", "pipelines", query)
            case "pipeline_service_create_pipeline":
                return self.add("pipeline", **body)
            case "pipeline_service_list_pipeline_versions":
                return self.listed("version", "pipeline_versions", query, pipeline_id=ids[0])
            case "pipeline_service_get_pipeline_version":
                return self.get("version", ids[1])
            case "upload_pipeline_version":
                return self._upload(query, body)
            case _ if name.startswith("run_service_"):
                return self._runs(name.removeprefix("run_service_"), ids, query, body)
            case _ if name.startswith("recurring_run_service_"):
                return self._schedules(name.removeprefix("recurring_run_service_"), ids, query, body)
        raise AssertionError(f"the stub does not know {name}")

    def _upload(self, query: dict[str, str], content: bytes) -> dict:
        self.get("pipeline", query["pipelineid"])
        if any(one["name"] == query["name"] for one in self.of("version")):
            raise Refused(409, "Already exist error")
        spec, *platform = yaml.safe_load_all(content)
        spec = {"pipeline_spec": spec, "platform_spec": platform[0]} if platform else spec
        texts = {"name": query["name"], "display_name": query["name"], "description": query.get("description", "")}
        return self.add("version", pipeline_id=query["pipelineid"], pipeline_spec=spec, **texts)

    def _check_parameters(self, body: dict) -> None:
        reference = body["pipeline_version_reference"]
        identity = reference.get("pipeline_version_id")
        versions = [one for one in self.of("version") if one["pipeline_id"] == reference["pipeline_id"]]
        spec = (self.get("version", identity) if identity else versions[-1])["pipeline_spec"]
        known = spec.get("pipeline_spec", spec)["root"]["inputDefinitions"]["parameters"]
        if unknown := set(body["runtime_config"]["parameters"]) - set(known):
            raise Refused(400, f"Invalid input error: unknown parameters {unknown}")
        self.get("experiment", body["experiment_id"])

    def _runs(self, name: str, ids: list[str], query: dict[str, str], body: Any) -> dict:
        match name:
            case "list_runs":
                if "experiment_id" not in query:
                    self.scope(query)
                equal = {"experiment_id": query["experiment_id"]} if "experiment_id" in query else {}
                return self.listed("run", "runs", query, **equal)
            case "create_run":
                self._check_parameters(body)
                return self.add("run", **body, state="PENDING", finished_at=NEVER)
            case "get_run":
                run = self.get("run", ids[0])
                if self.before_run_is_told:
                    self.before_run_is_told.pop(0)(run)
                return run
            case "terminate_run":
                self.get("run", ids[0])["state"] = "CANCELING"
                return {}
        raise AssertionError(name)

    def _schedules(self, name: str, ids: list[str], query: dict[str, str], body: Any) -> dict:
        match name:
            case "list_recurring_runs":
                self.scope(query)
                return self.listed("recurring_run", "recurringRuns", query)
            case "create_recurring_run":
                self._check_parameters(body)
                return self.add("recurring_run", **body, status="ENABLED")
            case "delete_recurring_run":
                self.get("recurring_run", ids[0])
                del self.records["recurring_run"][ids[0]]
            case "enable_recurring_run" | "disable_recurring_run":
                self.get("recurring_run", ids[0])["status"] = "ENABLED" if name.startswith("e") else "DISABLED"
        return {}


def handler(stub: KfpStub) -> type[BaseHTTPRequestHandler]:
    """The HTTP of the stub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: two would wait for each other.
        wbufsize = -1

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            form, body = self._parsed(raw)
            stub.requests.append((self.command, self.path, body))
            if stub.scripted:
                return self._send(*stub.scripted.pop(0))
            if stub.token and self.headers.get("authorization") != f"Bearer {stub.token}":
                return self._send_json(401, {"error": "Unauthenticated", "code": 16, "message": "Unauthenticated"})
            found = description.request_complaints(self.command, self.path, None if form else body, form)
            stub.problems += [f"{self.command} {self.path}: {line}" for line in found]
            parts = urlsplit(self.path)
            operation = description.operation_at(self.command, parts.path)
            if operation is None:
                return self._send_json(404, {"message": "Not Found"})
            query = dict(parse_qsl(parts.query))
            if "filter" in query:
                complaints = description.complaints("V2beta1Filter", json.loads(query["filter"]))
                stub.problems += [f"filter: {line}" for line in complaints]
            return self._answer(operation, parts.path, query, body)

        do_POST = do_DELETE = do_GET

        def _answer(self, operation: description.Operation, path: str, query: dict[str, str], body: Any) -> None:
            template = re.sub(r"\\{[^}]+\\}", "([^/:]+)", re.escape(operation.path))
            try:
                answer = stub.answer(operation.name, list(re.fullmatch(template, path).groups()), query, body)
            except Refused as refused:
                status, words = refused.args
                return self._send_json(status, {"error": words, "code": 5, "message": words, "details": []})
            kind = operation.answer
            stub.problems += [f"answer of {operation.name}: {line}" for line in description.complaints(kind, answer)]
            return self._send_json(200, answer)

        def _parsed(self, raw: bytes) -> tuple[frozenset[str], Any]:
            kind = self.headers.get("Content-Type", "")
            if "multipart" not in kind:
                return frozenset(), json.loads(raw) if raw else None
            parts = raw.split(b"--" + kind.partition("boundary=")[2].encode())[1:-1]
            name = re.search(rb'name="(\w+)"', parts[0])[1].decode()
            return frozenset({name}), parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")

        def _send_json(self, status: int, content: dict) -> None:
            self._send(status, "application/json", json.dumps(content).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/dex/login")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def serve(handler_class: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, str]:
    """A server on loopback and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_class)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"
