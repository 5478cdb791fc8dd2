"""Versions, runs and schedules against a stub that holds every request against the official description."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from components.contracts.errors import AccessError, ClusterError, ConfigError, MissingError
from pipeline import cluster as cluster_module
from pipeline import cluster_wire
from pipeline.cli import main
from pipeline.cluster import Cluster

IMAGE = f"registry.example/cpu@sha256:{'a' * 64}"
SPEC = {
    "pipelineInfo": {"name": "search-r1"},
    "root": {
        "inputDefinitions": {
            "parameters": {name: {} for name in ("p01_preset", "p06_seed", "p07_storage_root", "p90_overrides")}
        },
        "dag": {"tasks": {"resolve": {}, "train": {}}},
    },
}


@pytest.fixture
def package(tmp_path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


@pytest.fixture
def uploaded(kfp_server, package):
    Cluster().upload(package, "search-r1", "first")
    kfp_server.requests.clear()
    return kfp_server


def ended(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


# Connection


def test_nothing_is_known_of_a_server(no_cluster):
    with pytest.raises(ConfigError, match="port-forward"):
        Cluster()


@pytest.mark.parametrize(
    "host", ["localhost:8080", "ftp://kfp", "http://me:word@kfp", "http://kfp?token=x", "http://k fp"]
)
def test_addresses_that_are_none(no_cluster, host):
    with pytest.raises(ConfigError, match="Allowed: http"):
        Cluster(host)


def test_in_a_pod_the_service_of_the_cluster_is_asked(no_cluster, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert cluster_module._host("") == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


def test_token_of_the_environment(kfp_server, monkeypatch):
    kfp_server.token = "s3cret"
    with pytest.raises(AccessError, match="KF_PIPELINES_TOKEN"):
        Cluster()
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "s3cret")
    assert Cluster().schedules() == []


def test_projected_token_is_read_again_for_every_request(kfp_server, monkeypatch, tmp_path):
    path = tmp_path / "token"
    path.write_text("one")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(path))
    kfp_server.token = "one"
    cluster = Cluster()
    kfp_server.token = "two"
    path.write_text("two")
    assert cluster.schedules() == []


def test_projected_token_that_is_not_there(kfp_server, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(MissingError, match="/nowhere/token"):
        Cluster()


def test_no_command_takes_a_token(capsys):
    assert ended("submit", "--token", "x") == 2


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        pytest.param((200, "text/html", b"<form>"), AccessError, "wants a login", id="login page instead of data"),
        pytest.param((302, "text/html", b""), AccessError, "wants a login", id="sent to a login page"),
        pytest.param(
            (403, "application/json", b'{"message": "cannot list"}'),
            AccessError,
            r"list recurringruns: cannot list(.|\n)*verb 'list' on 'jobs'",
            id="role too small",
        ),
        pytest.param(
            (500, "application/json", b'{"message": "db\\u001b[31m"}'), ClusterError, "HTTP 500, db.?\\[31m", id="500"
        ),
        pytest.param(
            (500, "application/json", b'{"message": "db\\u009b31m"}'),
            ClusterError,
            "HTTP 500, db.31m",
            id="escape of one character",
        ),
        pytest.param((400, "application/json", b"{}"), ConfigError, "refuses the request", id="refused"),
        pytest.param((409, "application/json", b"{}"), ConfigError, "refuses the request", id="there already"),
        pytest.param((500, "text/plain", b"page " * 9999), ClusterError, "HTTP 500, page page", id="a page of words"),
    ],
)
def test_answers_that_are_errors(kfp_server, answer, error, words):
    cluster = Cluster()
    kfp_server.scripted.append(answer)
    with pytest.raises(error, match=words) as raised:
        cluster.schedules()
    said = str(raised.value)
    assert "\x1b" not in said and "\x9b" not in said
    assert len(said) < 1000


def test_unreachable_host_is_named(no_cluster):
    with pytest.raises(ClusterError, match=r"at http://127\.0\.0\.1:9 does not answer") as raised:
        Cluster("http://127.0.0.1:9", deadline_s=0)
    assert raised.value.exit_code == 75


@pytest.mark.timeout(30)
def test_a_server_that_takes_a_request_and_says_nothing_is_given_up(no_cluster, monkeypatch):
    monkeypatch.setattr(cluster_wire, "READ_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ClusterError, match="timed out"):
        Cluster(f"http://127.0.0.1:{silent.getsockname()[1]}", deadline_s=0)


def test_a_moment_without_server_is_survived_when_reading(kfp_server):
    cluster = Cluster()
    kfp_server.scripted += [(503, "text/plain", b"away")] * 2
    assert cluster.schedules() == []


def test_a_write_is_sent_once(uploaded, package):
    cluster = Cluster()
    version = cluster.version("search-r1")
    cluster.submit(version, {}, "first", "search-r1")
    uploaded.requests.clear()
    # The look for the experiment, then the write.
    uploaded.scripted += [
        (200, "application/json", b'{"experiments": [{"experiment_id": "e"}]}'),
        (503, "text/plain", b""),
    ]
    with pytest.raises(ClusterError, match="whether the request arrived is not known"):
        cluster.submit(version, {}, "second", "search-r1")
    assert len(uploaded.writes) == 1


@pytest.mark.parametrize(("given", "sent"), [("team-a", "team-a"), ("", "from-pod")])
def test_namespace_where_teams_share_the_server(kfp_server, monkeypatch, tmp_path, given, sent):
    kfp_server.multi_user = True
    (tmp_path / "namespace").write_text("from-pod")
    monkeypatch.setattr(cluster_module, "POD_NAMESPACE", tmp_path / "namespace")
    cluster = Cluster(namespace=given)
    assert cluster.schedules() == []
    assert f"namespace={sent}" in kfp_server.requests[-1][1]
    assert cluster.pod_namespace == sent


def test_what_is_made_is_made_in_the_namespace(kfp_server, package):
    kfp_server.multi_user = True
    cluster = Cluster(namespace="team-a")
    cluster.submit(cluster.upload(package, "search-r1", "first"), {}, "run", "search-r1")
    made = [*kfp_server.of("pipeline"), *kfp_server.of("experiment")]
    assert [one["namespace"] for one in made] == ["team-a", "team-a"]


def test_namespace_is_asked_for(kfp_server):
    kfp_server.multi_user = True
    with pytest.raises(ConfigError, match="--namespace"):
        Cluster()


def test_namespace_stays_at_home_where_there_is_one_team(kfp_server):
    cluster = Cluster(namespace="mine")
    assert cluster.schedules() == []
    assert cluster.pod_namespace == "mine"


def test_a_web_interface_without_a_server_behind_it(kfp_server):
    kfp_server.scripted.append((200, "application/json", b'{"apiServerReady": false}'))
    with pytest.raises(ClusterError, match="does not reach"):
        Cluster()


def test_connecting_asks_once(kfp_server):
    # The SDK's own check would ask first, five times when nobody answers, and keep a file at home.
    Cluster()
    assert [address for _, address, _ in kfp_server.requests] == ["/apis/v2beta1/healthz"]


# Upload


def test_upload_makes_pipeline_and_version(kfp_server, package, capsys):
    main(["upload", "--file", str(package), "--json"])
    first = told(capsys)
    assert first["created"] is True
    assert first["version"].startswith("sha-") and len(first["version"]) == 16
    assert [one["name"] for one in kfp_server.of("version")] == [first["version"]]
    assert kfp_server.of("version")[0]["description"].startswith("git commit ")


def test_equal_content_makes_nothing(uploaded, package, capsys):
    main(["upload", "--file", str(package), "--json"])
    assert told(capsys)["created"] is False
    assert uploaded.writes == []


def test_other_content_is_another_version(uploaded, package):
    package.write_text(yaml.safe_dump(SPEC | {"x": 1}))
    made = Cluster().upload(package, "search-r1", "second")
    assert Cluster().version("search-r1").name == made.name
    assert len(uploaded.of("pipeline")) == 1 and len(uploaded.of("version")) == 2


def test_two_pipelines_of_one_name(uploaded, package):
    uploaded.add("pipeline", display_name="search-r1")
    with pytest.raises(ConfigError, match="more than one pipeline 'search-r1'"):
        Cluster().upload(package, "search-r1", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "Neither --image nor --file", id="no image"),
        pytest.param(["--file", "absent.yaml"], "There is no file absent.yaml", id="no file"),
        pytest.param(["--image", IMAGE, "--gpus", "train=lots"], "--gpus train=lots", id="gpus"),
    ],
)
def test_upload_refuses(kfp_server, capsys, words, said):
    assert ended("upload", *words) == 2
    assert said in capsys.readouterr().err
    assert kfp_server.writes == []


def test_upload_compiles_with_the_image(kfp_server, capsys):
    main(["upload", "--image", IMAGE, "--json"])
    spec = kfp_server.of("version")[0]["pipeline_spec"]
    executors = spec.get("pipeline_spec", spec)["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {IMAGE}


# Schedules


def schedule(*words) -> None:
    main(["schedule", *words, "--json"])


def test_schedule_follows_the_latest_version_alone_and_without_catching_up(uploaded, capsys):
    words = ("--storage-root", "s3://bucket/runs", "--service-account", "runner")
    schedule("--cron", "0 0 2 * * *", "--name", "nightly", *words)
    assert told(capsys)["cron"] == "0 0 2 * * *"
    made = uploaded.of("recurring_run")[0]
    assert made["pipeline_version_reference"] == {"pipeline_id": uploaded.of("pipeline")[0]["pipeline_id"]}
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == ("1", True, "ENABLE")
    assert made["service_account"] == "runner"
    assert made["experiment_id"] == uploaded.of("experiment")[0]["experiment_id"]
    assert made["runtime_config"]["parameters"] == {
        "p01_preset": "small-world",
        "p06_seed": 1,
        "p07_storage_root": "s3://bucket/runs",
        "p90_overrides": "",
    }


def test_schedule_trains_on_new_corpora_only_where_the_pipeline_can_tell(kfp_server, package, capsys):
    spec = json.loads(json.dumps(SPEC))
    spec["root"]["inputDefinitions"]["parameters"]["p08_only_new_corpus"] = {}
    package.write_text(yaml.safe_dump(spec))
    Cluster().upload(package, "search-r1", "")
    schedule("--every", "6h")
    assert told(capsys)["every_s"] == 21600
    parameters = kfp_server.of("recurring_run")[0]["runtime_config"]["parameters"]
    assert parameters["p08_only_new_corpus"] == "yes"


def test_a_schedule_is_replaced_only_when_asked(uploaded, capsys):
    schedule("--every", "6h")
    old = told(capsys)["schedule_id"]
    assert ended("schedule", "--every", "1d") == 2
    assert "--replace" in capsys.readouterr().err
    schedule("--every", "1d", "--replace")
    assert told(capsys)["replaced"] == [old]
    assert [one["trigger"]["periodic_schedule"] for one in uploaded.of("recurring_run")] == [
        {"interval_second": "86400"}
    ]


def test_a_refused_schedule_leaves_the_old_one(uploaded, capsys):
    schedule("--every", "6h")
    uploaded.records["experiment"].clear()
    uploaded.records["version"].clear()
    assert ended("schedule", "--every", "1d", "--replace") == 2
    assert len(uploaded.of("recurring_run")) == 1


def test_schedules_are_listed_over_pages(uploaded, capsys, monkeypatch):
    monkeypatch.setattr(cluster_module, "PAGE_SIZE", 2)
    for number in range(5):
        schedule("--every", "6h", "--name", f"s{number}")
    capsys.readouterr()
    schedule("--list")
    assert [one["name"] for one in told(capsys)["schedules"]] == ["s0", "s1", "s2", "s3", "s4"]


@pytest.mark.parametrize(("change", "left"), [("disable", ["DISABLED"]), ("enable", ["ENABLED"]), ("delete", [])])
def test_schedules_are_changed_by_name(uploaded, capsys, change, left):
    schedule("--every", "6h", "--name", "nightly")
    capsys.readouterr()
    schedule(f"--{change}", "nightly")
    assert told(capsys)["change"] == change
    assert [one["status"] for one in uploaded.of("recurring_run")] == left


def test_unknown_schedule(uploaded, capsys):
    schedule("--every", "6h", "--name", "nightly")
    assert ended("schedule", "--delete", "nighly") == 2
    assert "did you mean 'nightly'" in capsys.readouterr().err
