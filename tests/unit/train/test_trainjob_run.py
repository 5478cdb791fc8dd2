"""A training job on a cluster, from submission to its result or its one error, against a fake API server."""

import json
import threading
import time

import pytest

from components.contracts.errors import ClusterError, ConfigError, RanksFailed
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import OUTPUT_NAMES, StepContext
from components.storage import open_storage
from components.train.config import TrainConfig
from components.train.job_folder import JobFolder
from components.train.trainjob import job_name
from components.train.trainjob_cluster import Patience
from components.train.trainjob_run import run_train_job
from tests.unit.train.fake_kubernetes import JOBS, PODS, FakeCluster, ended, serve, waiting

PATIENCE = Patience(
    watch_s=1,
    request_s=5,
    first_back_off_s=0.02,
    longest_back_off_s=0.1,
    lost_contact_s=0.5,
    deletion_s=5,
    last_log_s=2,
)
SCHEDULED = {"startTime": "2026-11-26T11:59:30Z"}
RESULT = Manifest(
    kind="checkpoint",
    uri="s3://bucket/store/checkpoint/1",
    files=(),
    digest="d" * 64,
    produced_by=ProducedBy(step="train", version="1", git_commit="c", config_sha256="0"),
)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    fake = FakeCluster()
    server, kubeconfig = serve(fake)
    (tmp_path / "kubeconfig").write_text(kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, value in {"RUN_ID": "run-7", "POD_NAME": "step-pod", "POD_UID": "uid-1"}.items():
        monkeypatch.setenv(f"SEARCHR1_{name}", value)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def train(cluster, s3_root):
    def run(**launch):
        launch = {"backend": "trainjob", "usd_per_gpu_hour": 3.0} | launch
        config = TrainConfig.parse({"launch": launch, "parallel": {"num_nodes": 2, "gpus_per_node": 8}})
        context = StepContext("train", s3_root, "c" * 64, config.sha256())
        return run_train_job(config, context, {"index": RESULT}, PATIENCE)

    return run


def folder_of(job: dict) -> JobFolder:
    return JobFolder(job["spec"]["trainer"]["args"][0])


def leave_result(job: dict) -> None:
    """Do as the first rank does at its end."""
    contents = {
        "manifest": RESULT.to_json(),
        "card": "| steps | 6 |\n",
        "metrics": json.dumps({"dev_em": 0.5}),
        "html": "",
    }
    for key, name in OUTPUT_NAMES.items():
        open_storage(folder_of(job).uri).put_bytes(contents[key].encode(), f"out/{name}")


def leave_error(job: dict, kind: str, message: str, exit_code: int) -> None:
    folder_of(job).write_error(json.dumps({"type": kind, "message": message, "exit_code": exit_code}).encode())


def leave_checkpoint(job: dict, step: int) -> None:
    work = folder_of(job).uri.partition("/launch/")[0]
    open_storage(work).put_bytes(b"", f"step_{step:06d}/_COMPLETE")


def succeed(cluster: FakeCluster, job: dict, attempt: int = 0) -> None:
    first = cluster.pod(job, 0, attempt=attempt, **SCHEDULED)
    cluster.pod(job, 1, attempt=attempt, **SCHEDULED)
    cluster.say(first, "step 1/2", "step 2/2")
    leave_result(job)
    for node in (0, 1):
        cluster.pod(job, node, attempt=attempt, phase="Succeeded", **ended(0, "Completed"))
    cluster.condition(job, "Complete", "JobsCompleted", "jobset completed successfully")


def fail(cluster: FakeCluster, job: dict) -> None:
    cluster.condition(job, "Failed", "JobsFailed", "jobset failed due to one or more job failures")


def test_a_job_is_submitted_followed_and_its_result_brought_home(cluster, train, capsys):
    cluster.story = succeed
    result = train()
    assert result.manifest == RESULT
    # Two pods of eight GPUs for half a minute.
    assert result.metrics == {"dev_em": 0.5, "gpu_hours": 0.1333, "cost_usd": 0.4}
    assert result.card == "| steps | 6 |\n| GPU-hours of this attempt | 0.13 |\n| cost of this attempt | $0.40 |\n"
    (job,) = cluster.jobs.values()
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "step-pod", "uid": "uid-1"}
    ]
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("step ")] == ["step 1/2", "step 2/2"]
    assert sum("Complete (JobsCompleted)" in line for line in said) == 1
    assert len(said) == len(set(said))


def test_a_node_finds_settings_and_inputs_where_the_job_points(cluster, train, tmp_path):
    cluster.story = succeed
    train()
    (job,) = cluster.jobs.values()
    arguments = folder_of(job).fetch_inputs(tmp_path)
    assert arguments == [f"--settings={tmp_path}/settings.json", f"--input=index={tmp_path}/inputs/index.json"]
    assert json.loads((tmp_path / "settings.json").read_text())["config"]["launch"]["backend"] == "trainjob"
    assert Manifest.read(tmp_path / "inputs" / "index.json") == RESULT


def test_a_running_job_is_adopted(cluster, train, capsys):
    # Another launcher made it and is gone; it ends while we follow it.
    cluster.refuse = refuse_first("GET", JOBS, 410)
    with pytest.raises(ClusterError):
        train()
    (job,) = cluster.jobs.values()
    job["metadata"]["ownerReferences"] = [{"uid": "former"}]
    threading.Timer(0.2, succeed, (cluster, job)).start()
    assert train().manifest == RESULT
    assert cluster.count("POST", JOBS) == 2 and len(cluster.jobs) == 1
    assert job["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert "is there and goes on" in capsys.readouterr().out


def refuse_first(method: str, path: str, *statuses: int):
    left = list(statuses)

    def refuse(asked: str, at: str) -> int | None:
        return left.pop(0) if left and asked == method and at.startswith(path) else None

    return refuse


def test_a_failed_job_is_made_anew_and_continues(cluster, train, capsys):
    def story(cluster, job):
        leave_checkpoint(job, 40)
        leave_error(job, "TrainingStopped", "no", 1)
        cluster.pod(job, 0, phase="Failed", **ended(1))
        fail(cluster, job)

    cluster.story = story
    with pytest.raises(RanksFailed, match="TrainingStopped: no"):
        train()
    cluster.story = succeed
    assert train().manifest == RESULT
    said = capsys.readouterr().out
    assert "is there and has failed: it is made anew" in said
    assert "submitted, continues from s3://" in said and "/step_000040" in said
    (job,) = cluster.jobs.values()
    assert folder_of(job).error() is None


def test_a_finished_job_is_read(cluster, train, capsys):
    cluster.story = succeed
    train()
    cluster.story = fail
    assert train().manifest == RESULT
    assert cluster.count("DELETE", JOBS) == 0
    assert "is there and has finished" in capsys.readouterr().out


def test_a_job_on_its_way_out_is_waited_for(cluster, train):
    cluster.deletion_s = 0.5
    cluster.story = succeed
    train()
    (name,) = cluster.jobs
    cluster.delete(name)
    began_s = time.monotonic()
    train()
    assert time.monotonic() - began_s >= 0.4
    assert "deletionTimestamp" not in cluster.jobs[name]["metadata"]


def out_of_memory(cluster, job):
    leave_checkpoint(job, 20)
    leave_checkpoint(job, 30)
    cluster.pod(job, 0, **SCHEDULED)
    killed = cluster.pod(job, 1, **SCHEDULED)
    cluster.say(killed, *(f"line {n}" for n in range(80)))
    # The first rank notices that it lost another one: its own words are no explanation.
    leave_error(job, "DistBackendError", "connection reset by peer", 1)
    cluster.pod(job, 0, phase="Failed", **ended(1, seconds=3))
    cluster.pod(job, 1, phase="Failed", **ended(137, "OOMKilled", seconds=5))
    fail(cluster, job)


def refused_by_a_rank(cluster, job):
    leave_error(job, "ConfigError", "no such thing. What to do: mend it", 2)
    cluster.pod(job, 0, phase="Failed", **ended(1, seconds=3))


def stopped_by_its_rules(cluster, job):
    leave_error(job, "TrainingStopped", "too many skipped updates", 1)
    cluster.pod(job, 0, phase="Failed", **ended(1, seconds=3))
    cluster.pod(job, 1, phase="Failed", **ended(143, seconds=2))
    fail(cluster, job)


def too_late(cluster, job):
    leave_error(job, "StoppedBySignal", "stopped by SIGTERM", 143)
    cluster.pod(job, 0, phase="Failed", **ended(143, seconds=3))
    cluster.condition(job, "Failed", "DeadlineExceeded", "Trainjob was active longer than specified deadline")


def no_image(cluster, job):
    cluster.pod(job, 0, phase="Pending", **waiting("ErrImagePull", "manifest unknown"))
    cluster.pod(job, 0, phase="Pending", **waiting("ImagePullBackOff", "Back-off pulling image"))


def gone(cluster, job):
    cluster.delete(job["metadata"]["name"])


FAILURES = [
    pytest.param(
        out_of_memory,
        75,
        ["JobsFailed", "-node-0-1-0 (node 1): OOMKilled, exit code 137", "line 79", "raise train.launch.memory"]
        + ["A retry continues from s3://", "step_000030"],
        id="out of memory",
    ),
    pytest.param(refused_by_a_rank, 2, ["ConfigError: no such thing", "mend it"], id="user error"),
    pytest.param(
        stopped_by_its_rules, 1, ["(node 0): Error, exit code 1", "TrainingStopped: too many"], id="rule of training"
    ),
    pytest.param(too_late, 75, ["DeadlineExceeded", "raise train.launch.deadline_s"], id="deadline"),
    pytest.param(no_image, 75, ["could not start for", "ImagePullBackOff: Back-off"], id="image"),
    pytest.param(gone, 75, ["deleted by somebody else", "starts from the beginning"], id="deleted"),
]


@pytest.mark.parametrize(("story", "exit_code", "says"), FAILURES)
def test_a_failure_is_one_error_with_its_cause(cluster, train, story, exit_code, says, capsys):
    cluster.story = story
    with pytest.raises((RanksFailed, ClusterError)) as raised:
        train(image_patience_s=0.3)
    assert [part for part in says if part not in str(raised.value)] == []
    assert raised.value.exit_code == exit_code
    said = capsys.readouterr().out.splitlines()
    if story is out_of_memory:
        assert [line for line in said if line.startswith("line ")] == [f"line {n}" for n in range(30, 80)]
        assert "connection reset" not in str(raised.value)
    if story in (refused_by_a_rank, no_image):
        # Neither a restart nor waiting mends it: the GPUs are given back.
        assert cluster.count("DELETE", JOBS) == 1


def test_a_restart_goes_on_in_new_pods(cluster, train, capsys):
    def story(cluster, job):
        first = cluster.pod(job, 0, **SCHEDULED)
        cluster.say(first, "step 1/2")
        leave_error(job, "SearchError", "retriever down", 75)
        cluster.pod(job, 0, phase="Failed", **ended(1))
        time.sleep(0.3)
        cluster.pods.clear()
        folder_of(job).forget_error()
        succeed(cluster, job, attempt=1)

    cluster.story = story
    result = train()
    assert result.metrics["gpu_hours"] == 0.2
    said = capsys.readouterr().out
    assert said.count("step 1/2") == 2 and "restart 1): " in said


def test_a_job_waits_in_the_queue_until_it_is_admitted(cluster, train, capsys):
    def story(cluster, job):
        owner = {"metadata": {"ownerReferences": [{"uid": job["metadata"]["uid"]}]}}
        message = "couldn't assign flavors: insufficient quota for nvidia.com/gpu"
        cluster.workloads = [
            owner | {"status": {"conditions": [{"type": "QuotaReserved", "status": "False", "message": message}]}}
        ]
        cluster.condition(job, "Suspended", "Suspended", "TrainJob is suspended")
        time.sleep(0.2)
        cluster.workloads = [owner | {"status": {"conditions": [{"type": "Admitted", "status": "True"}]}}]
        job["spec"]["suspend"] = False
        cluster.condition(job, "Suspended", "Resumed", "TrainJob is resumed", status="False")
        unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        cluster.pod(job, 0, phase="Pending", conditions=[unschedulable])
        cluster.events = [
            {
                "involvedObject": {"name": f"{job['metadata']['name']}-node-0"},
                "reason": "FailedCreate",
                "message": "exceeded quota",
            },
            {"involvedObject": {"name": "another"}, "reason": "FailedCreate", "message": "not ours"},
        ]
        time.sleep(0.2)
        succeed(cluster, job)

    cluster.story = story
    train(queue="gpu")
    said = capsys.readouterr().out
    expected = ["waits in queue gpu: couldn't assign flavors", "admitted by queue gpu", "no longer suspended (Resumed)"]
    expected += ["Pending: Unschedulable: 0/3 nodes", "FailedCreate: exceeded quota"]
    assert [text for text in expected if said.count(text) != 1] == []
    assert "not ours" not in said


@pytest.mark.parametrize("how", ["drop", "gone"])
def test_a_broken_watch_loses_nothing(cluster, train, how):
    def story(cluster, job):
        time.sleep(0.3)
        succeed(cluster, job)

    cluster.story = story
    cluster.broken_watches = [how] * 3
    assert train().manifest == RESULT
    assert cluster.broken_watches == []


def test_a_server_that_is_away_for_a_moment_is_waited_for(cluster, train):
    cluster.story = succeed
    cluster.refuse = refuse_first("GET", JOBS, 503, 0, 429)
    assert train().manifest == RESULT


def test_a_server_that_stays_away_leaves_the_job_to_a_retry(cluster, train):
    cluster.refuse = refuse_first("GET", JOBS, *([503] * 100))
    with pytest.raises(ClusterError, match="has not answered for"):
        train()
    assert len(cluster.jobs) == 1


def test_a_broken_log_is_read_on_without_doubling_a_line(cluster, train, capsys):
    def story(cluster, job):
        first = cluster.pod(job, 0, **SCHEDULED)
        for n in range(9):
            cluster.say(first, f"line {n}")
            time.sleep(0.03)
        succeed(cluster, job)

    cluster.story = story
    cluster.broken_logs = [2, 5]
    train()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("line ")]
    assert said == [f"line {n}" for n in range(9)]


REFUSALS = [
    pytest.param("POST", JOBS, 403, "launcher-role.yaml", id="no role"),
    pytest.param("GET", PODS, 403, "may not list pods", id="no role for pods"),
    pytest.param("POST", JOBS, 422, "refuses the job: it is refused here", id="invalid"),
    pytest.param(
        "GET", JOBS.replace("trainjobs", "trainingruntimes"), 404, "Trainer is not installed", id="no Trainer"
    ),
]


@pytest.mark.parametrize(("method", "path", "status", "says"), REFUSALS)
def test_what_a_person_must_mend_is_said(cluster, train, method, path, status, says):
    cluster.refuse = refuse_first(method, path, status)
    with pytest.raises(ConfigError) as raised:
        train()
    assert says in str(raised.value)


def test_a_missing_runtime_is_named(cluster, train):
    with pytest.raises(ConfigError, match="no TrainingRuntime 'elsewhere'"):
        train(runtime="elsewhere")


def test_pods_cannot_reach_this_machine(cluster, tmp_path):
    config = TrainConfig.parse({"launch": {"backend": "trainjob"}})
    with pytest.raises(ConfigError, match="out of reach"):
        run_train_job(config, StepContext("train", f"file://{tmp_path}", "c", "d"), {}, PATIENCE)


def test_the_name_follows_from_run_and_work():
    names = {job_name(run, work) for run in ("run-7", "run-8") for work in ("a", "b")}
    assert len(names) == 4 and all(len(name) == 14 for name in names)
    assert job_name("run-7", "a") == job_name("run-7", "a")
