"""Logs of steps: which pod is meant, what is shown of it, and what to do when there is none."""

import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from components.contracts.errors import AccessError
from pipeline.cli import main
from pipeline.cluster import Cluster
from pipeline.cluster_logs import Pods
from tests.contract.kfp_stub import serve

SPEC = {"root": {"inputDefinitions": {"parameters": {}}, "dag": {"tasks": {"corpus": {}, "index": {}, "train": {}}}}}


class Kubernetes:
    """Pods and logs of one namespace, as an API server serves them."""

    def __init__(self):
        self.pods, self.logs, self.refusal, self.requests = [], {}, None, []
        kubernetes = self

        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1

            def log_message(self, *_):
                pass

            def do_GET(self):
                kubernetes.requests.append(self.path)
                status, kind, body = kubernetes.answer(urlsplit(self.path))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server, self.url = serve(Handler)

    def answer(self, address):
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if self.refusal:
            return self.refusal, "text/plain", b"pods is \x1b[31mforbidden"
        if address.path == "/api/v1/namespaces/kubeflow/pods":
            name, _, value = query["labelSelector"].partition("=")
            found = [pod for pod in self.pods if pod["metadata"]["labels"].get(name) == value]
            return 200, "application/json", json.dumps({"kind": "PodList", "apiVersion": "v1", "items": found}).encode()
        pod = re.fullmatch("/api/v1/namespaces/kubeflow/pods/([^/]+)/log", address.path)[1]
        if pod not in self.logs:
            return 404, "application/json", b"{}"
        assert query["container"] == "main"
        lines = self.logs[pod].splitlines(keepends=True)
        return 200, "text/plain", b"".join(lines[-int(query.get("tailLines", len(lines))) :])

    def add(self, run_id, node_name, log, second, phase="Succeeded", state=None):
        name = f"pod-{len(self.pods)}"
        metadata = {
            "name": name,
            "labels": {"pipeline/runid": run_id},
            "annotations": {"workflows.argoproj.io/node-name": node_name},
            "creationTimestamp": f"2026-11-01T10:00:{second:02}Z",
        }
        images = {"image": "i", "imageID": "i", "ready": False, "restartCount": 0}
        container = {"name": "main", "state": state or {"running": {}}, **images}
        # Kubeflow's own container beside the step's says nothing about the step.
        beside = {"name": "wait", "state": {"terminated": {"exitCode": 64, "reason": "Error"}}, **images}
        self.pods.append({"metadata": metadata, "status": {"phase": phase, "containerStatuses": [container, beside]}})
        self.logs[name] = log
        return name


@pytest.fixture
def kubernetes(no_cluster, tmp_path, monkeypatch):
    found = Kubernetes()
    config = {
        "clusters": [{"name": "c", "cluster": {"server": found.url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def run(kfp_server, kubernetes, tmp_path):
    """A run whose step `index` failed at its second attempt, and `train` never started."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(SPEC))
    cluster = Cluster()
    version = cluster.upload(tmp_path / "p.yaml", "search-r1", "")
    run_id = cluster.submit(version, {}, "r", "search-r1").run_id
    states = {"corpus": "SUCCEEDED", "index": "FAILED"}
    details = [{"display_name": name, "task_id": name, "state": state} for name, state in states.items()]
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    kfp_server.get("run", run_id)["run_details"] = {"task_details": details}
    kubernetes.add(
        run_id, "wf.root.data.index.executor(1)", b"second\r50%\r100%\nlast \x1b[31mred\xff", 9, "Failed", killed
    )
    kubernetes.add(run_id, "wf.root.data.index.executor(0)", b"first attempt\n", 5, "Failed")
    kubernetes.add(run_id, "wf.root.data.index-driver", b"driver\n", 4)
    kubernetes.add(run_id, "wf.root.data.corpus.executor", b"".join(b"line %d\n" % i for i in range(60)), 2)
    kubernetes.add("another-run", "wf2.root.data.index.executor", b"not mine\n", 20)
    return run_id


def test_the_last_attempt_is_shown_and_steers_no_terminal(run, capsys):
    main(["logs", run, "index"])
    assert capsys.readouterr().out == "100%\nlast \ufffd[31mred\ufffd\n"


def test_tail(run, capsys):
    main(["logs", "latest", "corpus", "--tail", "2"])
    assert capsys.readouterr().out == "line 58\nline 59\n"


def test_failed_steps_and_why(run, capsys):
    main(["logs", run, "--failed", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["logs"] == [
        {
            "task": "index",
            "pod": "pod-0",
            "error": "OOMKilled, exit code 137",
            "lines": ["100%", "last \ufffd[31mred\ufffd"],
        }
    ]


def test_failed_steps_for_people(run, kubernetes, capsys):
    main(["logs", run, "--failed"])
    assert capsys.readouterr().out.splitlines()[0] == "== index: OOMKilled, exit code 137"


def test_failed_steps_without_a_pod_are_named(run, kubernetes, capsys):
    kubernetes.pods.clear()
    main(["logs", run, "--failed"])
    assert capsys.readouterr().out == "== index\n"


def test_a_pod_that_cannot_start_says_why(run, kubernetes, capsys):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such\x1b image"}}
    kubernetes.add(run, "wf.root.data.corpus.executor", b"", 30, "Pending", waiting)
    main(["logs", run, "corpus"])
    assert capsys.readouterr() == ("", "== corpus: ImagePullBackOff, no such\ufffd image\n")


def test_no_step_failed(run, kfp_server, capsys):
    kfp_server.get("run", run)["run_details"]["task_details"].pop()
    main(["logs", run, "--failed"])
    assert "No step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["indexx"], "no task 'indexx'; did you mean 'index'?", id="typo"),
        pytest.param([], "No task named.\nAllowed: corpus, index, train", id="no task"),
        pytest.param(["train"], "Step train has no pod: it is NOT_STARTED", id="not started"),
        pytest.param(["corpus", "--context", "y"], "Kubernetes cannot be asked", id="unknown context"),
    ],
)
def test_steps_without_a_log(run, capsys, words, said):
    with pytest.raises(SystemExit) as end:
        main(["logs", run, *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "exit_code", "says"),
    [
        pytest.param(401, 2, "verb 'list' on 'pods'", id="nobody it knows"),
        pytest.param(403, 2, "verb 'list' on 'pods'", id="role is missing"),
        pytest.param(500, 75, "HTTP 500, pods is", id="server failed"),
    ],
)
def test_a_refusal_says_who_can_help(run, kubernetes, capsys, status, exit_code, says):
    kubernetes.refusal = status
    with pytest.raises(SystemExit) as end:
        main(["logs", run, "index"])
    assert end.value.code == exit_code
    said = capsys.readouterr().err
    assert says in said and "\x1b" not in said


def test_a_cluster_out_of_reach_is_a_failure_that_may_pass(run, kubernetes, capsys):
    kubernetes.server.shutdown()
    kubernetes.server.server_close()
    with pytest.raises(SystemExit) as end:
        main(["logs", run, "index"])
    assert end.value.code == 75
    assert "Kubernetes does not answer" in capsys.readouterr().err


def test_a_pod_that_goes_meanwhile(run, kubernetes, capsys):
    del kubernetes.logs["pod-0"]
    with pytest.raises(SystemExit) as end:
        main(["logs", run, "index"])
    assert end.value.code == 2
    assert "has gone" in capsys.readouterr().err


def test_no_kubeconfig(no_cluster):
    with pytest.raises(AccessError, match="KUBECONFIG"):
        Pods("kubeflow")


def test_follow_asks_for_the_stream(run, kubernetes):
    main(["logs", run, "corpus", "--follow"])
    assert "follow=True" in kubernetes.requests[-1]
