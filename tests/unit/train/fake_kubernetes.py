"""A Kubernetes API server of this process, as far as a training job needs one: jobs, watches, pods, logs, queue.

A story is a function that plays the controllers and the kubelet for a job that was created; it runs beside the test.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "team"
INDEX, ATTEMPT = "batch.kubernetes.io/job-completion-index", "jobset.sigs.k8s.io/restart-attempt"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class FakeCluster:
    """State of the server; every change wakes those who watch."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.jobs: dict[str, dict] = {}
        self.pods: dict[str, dict] = {}
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.events: list[dict] = []
        self.workloads: list[dict] = []
        self.version = 1
        self.history: list[tuple[int, str, str, dict]] = []
        """(version, resource, type, object) of every change."""
        self.requests: list[tuple[str, str]] = []
        self.story: Callable[[FakeCluster, dict], None] = lambda cluster, job: None
        self.refusal = "it is refused here"
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        """(method, path) -> status of a refusal; 0 breaks the connection."""
        self.broken_watches: dict[str, list[str]] = {}
        """Resource -> what the next watches of it do instead: `drop` or `gone`."""
        self.broken_logs: list[int] = []
        """After how many lines the next log streams break."""
        self.deletion_s = 0.05
        self.deletions: list[str] = []
        """How the end of each job was asked for: `Foreground` waits for its pods."""

    def create(self, body: dict) -> dict:
        """Store a job and start its story."""
        body["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": NAMESPACE}
        self.put("ADDED", body)
        threading.Thread(target=self.story, args=(self, body), daemon=True).start()
        return body

    def put(self, kind: str, job: dict) -> None:
        self._change("trainjobs", self.jobs, kind, job)

    def _change(self, resource: str, held: dict[str, dict], kind: str, item: dict) -> None:
        with self.changed:
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            held[item["metadata"]["name"]] = item
            if kind == "DELETED":
                held.pop(item["metadata"]["name"])
            self.history.append((self.version, resource, kind, json.loads(json.dumps(item))))
            self.changed.notify_all()

    def take_pods(self) -> None:
        """Let all pods go, with their logs."""
        for name, pod in list(self.pods.items()):
            self.logs.pop(name)
            self._change("pods", self.pods, "DELETED", pod)

    def delete(self, name: str) -> None:
        """Take the job away once its pods have ended, as a foreground deletion does."""
        job = self.jobs[name]
        job["metadata"]["deletionTimestamp"] = now()
        self.put("MODIFIED", job)

        def go() -> None:
            time.sleep(self.deletion_s)
            self.take_pods()
            self.put("DELETED", job)

        threading.Thread(target=go, daemon=True).start()

    def condition(self, job: dict, kind: str, reason: str = "", message: str = "", status: str = "True") -> None:
        held = [c for c in job.setdefault("status", {}).get("conditions", []) if c["type"] != kind]
        job["status"]["conditions"] = [
            *held,
            {"type": kind, "status": status, "reason": reason, "message": message},
        ]
        self.put("MODIFIED", job)

    def pod(self, job: dict, node: int = 0, *, phase: str = "Running", attempt: int = 0, **status: object) -> str:
        """Make or change the pod of a node and return its name."""
        name = f"{job['metadata']['name']}-node-0-{node}-{attempt}"
        labels = {
            "jobset.sigs.k8s.io/jobset-name": job["metadata"]["name"],
            INDEX: str(node),
            ATTEMPT: str(attempt),
        }
        limits = job["spec"]["trainer"]["resourcesPerNode"]["limits"]
        pod = {
            "metadata": {"name": name, "uid": name, "labels": labels},
            "spec": {"containers": [{"name": "node", "resources": {"limits": limits}}]},
            "status": {"phase": phase} | status,
        }
        self.logs.setdefault(name, [])
        self._change("pods", self.pods, "MODIFIED", pod)
        return name

    def say(self, pod: str, *lines: str) -> None:
        with self.changed:
            self.logs[pod] += [(now(), line) for line in lines]
            self.changed.notify_all()

    def wait_until_seen(self, resource: str) -> None:
        """Wait until a client has asked for the resource, knowing all that has happened so far."""
        asked = sum(path.endswith(resource) for _, path in self.requests)
        # The first of two may have been under way already.
        while sum(path.endswith(resource) for _, path in self.requests) < asked + 2:
            time.sleep(0.01)

    def count(self, method: str, path: str) -> int:
        return sum(m == method and p.startswith(path) for m, p in self.requests)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def ended(exit_code: int, reason: str = "Error", seconds: float = 0.0) -> dict:
    """A pod's status with its container ended at so many seconds past noon."""
    state = {"exitCode": exit_code, "reason": reason, "finishedAt": f"2026-11-26T12:00:{seconds:02.0f}Z"}
    return {
        "startTime": "2026-11-26T11:59:30Z",
        "containerStatuses": [{"name": "node", "state": {"terminated": state}}],
    }


def waiting(reason: str, message: str = "") -> dict:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "node", "state": state}]}


class _Handler(BaseHTTPRequestHandler):
    """Answers from the state of `self.cluster`, which `serve` gives it."""

    cluster: FakeCluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve("GET")

    def do_POST(self):
        self._serve("POST")

    def do_PATCH(self):
        self._serve("PATCH")

    def do_DELETE(self):
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.cluster.requests.append((method, url.path))
        status = self.cluster.refuse(method, url.path)
        if status is not None:
            self.close_connection = True
            return self._refuse(status, self.cluster.refusal) if status else None
        name = url.path.rpartition("/")[2]
        match method:
            case "POST":
                job = json.loads(body)
                taken = job["metadata"]["name"] in self.cluster.jobs
                return self._refuse(409, "already exists") if taken else self._send(self.cluster.create(job))
            case "PATCH" | "DELETE" if name not in self.cluster.jobs:
                return self._refuse(404, "not found")
            case "PATCH":
                job = self.cluster.jobs[name]
                job["metadata"] |= json.loads(body)["metadata"]
                self.cluster.put("MODIFIED", job)
                return self._send(job)
            case "DELETE":
                self.cluster.deletions.append(query.get("propagationPolicy", ""))
                self.cluster.delete(name)
                return self._send({"kind": "Status", "status": "Success"})
        # Whoever watches hangs up in the middle of an answer.
        with suppress(ConnectionError):
            self._get(url.path, query)

    def _get(self, path: str, query: dict[str, str]) -> None:
        if log := re.fullmatch(PODS + "/([^/]+)/log", path):
            return self._log(log[1], query)
        if query.get("watch"):
            return self._watch(path.rpartition("/")[2], query)
        match path.rpartition("/")[2]:
            case "trainjobs":
                name = query["fieldSelector"].removeprefix("metadata.name=")
                found = [job for key, job in self.cluster.jobs.items() if key == name]
            case "pods":
                found = [pod for pod in self.cluster.pods.values() if _is_selected(pod, query)]
            case "events":
                found = self.cluster.events
            case "workloads":
                found = self.cluster.workloads
            case "searchr1-train":
                return self._send({"metadata": {"name": "searchr1-train"}})
            case _:
                return self._refuse(404, f"{path} not found")
        return self._send({"items": found, "metadata": {"resourceVersion": str(self.cluster.version)}})

    def _watch(self, resource: str, query: dict[str, str]) -> None:
        broken = self.cluster.broken_watches.get(resource, [])
        how = broken.pop(0) if broken else ""
        self._start()
        if how == "gone":
            error = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            self._chunk(json.dumps({"type": "ERROR", "object": error}) + "\n")
        if how:
            self.close_connection = True
            return
        seen, limit_s = int(query["resourceVersion"]), time.monotonic() + int(query["timeoutSeconds"])
        while (left_s := limit_s - time.monotonic()) > 0:
            with self.cluster.changed:
                history = [entry for entry in self.cluster.history if entry[0] > seen and entry[1] == resource]
                news = [entry for entry in history if _is_selected(entry[3], query)]
                if not news:
                    self.cluster.changed.wait(left_s)
            for version, _, kind, item in news:
                seen = version
                self._chunk(json.dumps({"type": kind, "object": item}) + "\n")
        self._chunk("")

    def _log(self, pod: str, query: dict[str, str]) -> None:
        if pod not in self.cluster.logs:
            return self._refuse(404, f"pods {pod} not found")
        if "tailLines" in query:
            lines = self.cluster.logs[pod][-int(query["tailLines"]) :]
            return self._send("".join(f"{line}\n" for _, line in lines), "text/plain")
        self._start()
        # The server knows whole seconds only.
        sent, since = 0, query.get("sinceTime", "")[:19]
        breaks_after = self.cluster.broken_logs.pop(0) if self.cluster.broken_logs else None
        while True:
            with self.cluster.changed:
                lines = [entry for entry in self.cluster.logs[pod] if entry[0][:19] >= since]
                over = pod not in self.cluster.pods or self.cluster.pods[pod]["status"]["phase"] in (
                    "Succeeded",
                    "Failed",
                )
                if len(lines) == sent and not over:
                    self.cluster.changed.wait(0.5)
            for stamp, line in lines[sent:]:
                if breaks_after is not None and sent >= breaks_after:
                    self.close_connection = True
                    return
                self._chunk(f"{stamp} {line}\n")
                sent += 1
            if over and sent == len(lines):
                break
        self._chunk("")

    def _start(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _refuse(self, status: int, message: str) -> None:
        if status == 404 and "not found" not in message:
            return self._send("404 page not found\n", "text/plain", 404)
        details = {"name": self.path.rpartition("/")[2]}
        return self._send({"kind": "Status", "code": status, "message": message, "details": details}, status=status)

    def _send(self, content: object, kind: str = "application/json", status: int = 200) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _is_selected(item: dict, query: dict[str, str]) -> bool:
    name, _, value = query.get("labelSelector", "").partition("=")
    return not name or item["metadata"].get("labels", {}).get(name) == value


def serve(cluster: FakeCluster) -> tuple[ThreadingHTTPServer, str]:
    """Start the server and return it with the text of a kubeconfig file for it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": cluster}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kubeconfig = {
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "nobody", "namespace": NAMESPACE}}],
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "nobody", "user": {}}],
    }
    return server, json.dumps(kubeconfig)
