"""The object that is submitted, and what pods tell."""

from pathlib import Path

import pytest
import yaml

from components.train.config import TrainConfig
from components.train.trainjob import train_job
from components.train.trainjob_news import News
from components.train.trainjob_pods import GpuClock, failure_of, first_failure, first_rank, state_of, stuck_reason

SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"
RUNTIME = SAMPLES.parent / "base" / "training-runtime.yaml"
ENVIRONMENT = {
    "SEARCHR1_RUN_ID": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    "SEARCHR1_POD_NAME": "search-r1-x7k2p-system-container-impl-1234567890",
    "SEARCHR1_POD_UID": "0f5c1a4e-6c1f-4f0e-9f4a-2f8a6f1f9d10",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "HF_TOKEN": "secret",
}


def job(**launch) -> dict:
    config = TrainConfig.parse(
        {
            "launch": {"backend": "trainjob", "cpu": "64", "memory": "512Gi"} | launch,
            "parallel": {"num_nodes": 2, "gpus_per_node": 8},
        }
    )
    return train_job(config, "sr1-0123456789", FOLDER, INDEX, ENVIRONMENT)


INDEX = "s3://searchr1/runs/store/index/0123456789abcdef/manifest.json"
FOLDER = "s3://searchr1/runs/work/train/0123456789abcdef/launch/sr1-0123456789"


@pytest.mark.parametrize(
    ("name", "launch"),
    [
        pytest.param("train-job.yaml", {"queue": "searchr1"}, id="in a queue"),
        pytest.param("train-job-with-retriever.yaml", {"retriever_in_job": True}, id="with a retriever"),
    ],
)
def test_the_sample_is_what_is_submitted(name, launch):
    assert yaml.safe_load((SAMPLES / name).read_text()) == job(**launch)


def test_only_a_queue_makes_a_job_wait():
    body = job()
    assert "suspend" not in body["spec"]
    assert "kueue.x-k8s.io/queue-name" not in body["metadata"]["labels"]


@pytest.mark.parametrize("run_id", ["", "not a label", "x" * 64])
def test_a_run_id_that_is_no_label_goes_without(run_id):
    body = train_job(TrainConfig(), "name", FOLDER, INDEX, {"SEARCHR1_RUN_ID": run_id})
    assert "runtimePatches" not in body["spec"]
    assert "searchr1/run-id" not in body["metadata"]["labels"]


@pytest.mark.parametrize("variable", ["SEARCHR1_POD_NAME", "SEARCHR1_POD_UID"])
def test_a_pod_that_is_not_known_owns_nothing(variable):
    """The cluster refuses a reference without a uid."""
    body = train_job(TrainConfig(), "name", FOLDER, INDEX, ENVIRONMENT | {variable: ""})
    assert body["metadata"]["ownerReferences"] == []


def test_no_secret_is_part_of_the_job():
    assert "secret" not in str(job())


def test_a_job_without_gpus_asks_for_none():
    config = TrainConfig.parse({"parallel": {"num_nodes": 2, "cpu_ranks": 3}})
    trainer = train_job(config, "name", FOLDER, INDEX, {})["spec"]["trainer"]
    assert trainer["numProcPerNode"] == 3
    assert "nvidia" not in str(trainer)


def test_torchrun_lets_ranks_save_within_the_grace_of_their_pods():
    """torchrun alone kills its ranks 30 s after SIGTERM, in the middle of a checkpoint."""
    pod = yaml.safe_load(RUNTIME.read_text())["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    grace_s = pod["template"]["spec"]["terminationGracePeriodSeconds"]
    (flag,) = (part for part in job()["spec"]["trainer"]["command"] if part.startswith("--shutdown-timeout="))
    assert 300 <= int(flag.partition("=")[2]) < grace_s


def pod(name="p", node=0, attempt=0, part="node", phase="Running", gpus=1, state=None, **status) -> dict:
    labels = {
        "batch.kubernetes.io/job-completion-index": str(node),
        "jobset.sigs.k8s.io/restart-attempt": str(attempt),
        "jobset.sigs.k8s.io/replicatedjob-name": part,
    }
    containers = [{"name": "node", "state": state}] if state else []
    return {
        "metadata": {"name": name, "uid": name, "labels": labels},
        "spec": {"containers": [{"name": "node", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}]},
        "status": {"phase": phase, "containerStatuses": containers} | status,
    }


def ended(code, reason="Error", at="12:00:00"):
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": f"2026-11-26T{at}Z"}}


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
BACK_OFF = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}

STATES = [
    pytest.param(pod(state={"running": {}}), "Running", "", id="running"),
    pytest.param(pod(phase="Pending", conditions=[UNSCHEDULABLE]), "Pending: Unschedulable: no GPU", "", id="no room"),
    pytest.param(
        pod(phase="Pending", state=BACK_OFF),
        "Pending: ImagePullBackOff: Back-off",
        "ImagePullBackOff: Back-off",
        id="no image",
    ),
    pytest.param(
        pod(phase="Pending", state={"waiting": {"reason": "ContainerCreating"}}),
        "Pending: ContainerCreating",
        "",
        id="on its way",
    ),
    pytest.param(
        pod(phase="Failed", state=ended(137, "OOMKilled")), "Failed: OOMKilled, exit code 137", "", id="out of memory"
    ),
    pytest.param(pod(phase="Failed", reason="Evicted"), "Failed: Evicted, no exit code", "", id="evicted"),
    pytest.param(
        pod(phase="Failed", state=ended(143), conditions=[PREEMPTED]),
        "Failed: PreemptionByScheduler, exit code 143",
        "",
        id="preempted",
    ),
    pytest.param(
        pod(phase="Failed", state=ended(137, "OOMKilled"), conditions=[PREEMPTED]),
        "Failed: OOMKilled, exit code 137",
        "",
        id="out of memory before it was preempted",
    ),
    pytest.param(pod(phase="Succeeded", state=ended(0, "Completed")), "Succeeded", "", id="done"),
]


@pytest.mark.parametrize(("given", "state", "stuck"), STATES)
def test_a_pod_says_how_it_fares(given, state, stuck):
    assert state_of(given) == state
    assert stuck_reason(given) == stuck


FIRST = [
    pytest.param(
        [("late", 0, ended(1, at="12:00:09")), ("early", 0, ended(1, at="12:00:01"))], "early", id="first to end"
    ),
    pytest.param(
        [("told", 0, ended(143, at="12:00:01")), ("cause", 0, ended(1, at="12:00:09"))], "cause", id="told to end"
    ),
    pytest.param(
        [("lost it", 0, ended(1, at="12:00:01")), ("killed", 0, ended(137, "OOMKilled", "12:00:03"))],
        "killed",
        id="killed",
    ),
    pytest.param(
        [("before", 0, ended(137, "OOMKilled")), ("now", 1, ended(1, at="12:30:00"))], "now", id="last attempt"
    ),
    pytest.param(
        [("lost it", 0, ended(1, at="12:00:01")), ("shot", 0, ended(137, at="12:00:03"))],
        "shot",
        id="killed, no reason",
    ),
    pytest.param([("lost it", 0, ended(1)), ("gone", 0, None)], "gone", id="lost with its machine"),
    pytest.param(
        [("gone", 0, None), ("killed", 0, ended(137, "OOMKilled"))],
        "killed",
        id="an unknown time comes after a known one",
    ),
]


@pytest.mark.parametrize(("pods", "cause"), FIRST)
def test_the_cause_is_told_from_its_consequences(pods, cause):
    failures = [failure_of(pod(name, attempt=attempt, phase="Failed", state=state)) for name, attempt, state in pods]
    assert first_failure(failures).pod == cause


@pytest.mark.parametrize(
    "later",
    [
        pytest.param({"attempt": 1, "created": "12:00:00"}, id="of a later attempt"),
        pytest.param({"attempt": 0, "created": "12:00:01"}, id="made later"),
    ],
)
def test_the_newest_first_rank_is_the_one(later):
    """The pods of an attempt that failed stay for a moment beside the new ones."""

    def made(name, attempt, created):
        given = pod(name, attempt=attempt)
        given["metadata"]["creationTimestamp"] = f"2026-11-26T{created}Z"
        return given

    pods = [made("old", 0, "12:00:00"), made("new", **later)]
    for order in (pods, pods[::-1]):
        assert first_rank(order)["metadata"]["name"] == "new"


def test_a_retriever_in_the_job_is_no_rank_and_may_be_started_again():
    retriever = pod("retriever", part="retriever")
    assert first_rank([retriever, pod("later", node=1), pod("first")])["metadata"]["name"] == "first"
    assert first_rank([retriever, pod("first", phase="Pending")]) is None
    assert failure_of(pod("retriever", part="retriever", state=ended(137, "OOMKilled"))) is None
    lost = failure_of(pod("retriever", part="retriever", phase="Failed", state=ended(1)))
    assert str(lost) == "pod retriever (retriever 0): Error, exit code 1"


def test_gpu_time_counts_every_attempt_and_pods_that_are_gone():
    clock = GpuClock()
    started = "2026-11-26T11:00:00Z"
    clock.note([pod("a", gpus=8, phase="Failed", state=ended(1), startTime=started)])
    clock.note([pod("b", gpus=8, attempt=1, state=ended(0), startTime=started), pod("waits", phase="Pending")])
    assert clock.gpu_s() == 2 * 8 * 3600
    clock.note([pod("c", gpus=0, startTime=started)])
    assert clock.gpu_s() == 2 * 8 * 3600


def test_a_pod_holds_its_gpus_until_the_last_of_its_containers_has_ended():
    """A cluster may put containers of its own into a pod: one that prepares it and ends, one that sends logs away."""
    done = {"name": "prepares", "state": ended(0, "Completed", "11:00:01")}
    beside = {"name": "sends logs", "state": ended(0, "Completed", "11:30:00")}
    at_work, over = ({"name": "node", "state": state} for state in ({"running": {}}, ended(0, at="12:00:00")))
    started = {"startTime": "2026-11-26T11:00:00Z", "initContainerStatuses": [done]}
    clock = GpuClock()
    clock.note([pod(**started, containerStatuses=[beside, at_work])])
    assert clock.gpu_s() > 3600
    clock.note([pod(**started, containerStatuses=[over, beside])])
    assert clock.gpu_s() == 3600


def test_news_are_said_once_and_again_when_they_change():
    said = []
    news = News(said.append)
    for phase in ("Pending", "Pending", "Running", "Running"):
        news.tell_pod(pod("sr1-a-node-0", phase=phase))
    assert said == ["sr1-a-node-0 (node 0): Pending", "sr1-a-node-0 (node 0): Running"]


WORKLOAD = {"metadata": {"ownerReferences": [{"uid": "1"}]}}
QUEUED = [
    pytest.param([], "waits for Kueue, which has not taken notice of it yet", id="no Kueue"),
    pytest.param([{"metadata": {"ownerReferences": [{"uid": "2"}]}}], "waits for Kueue", id="of another job"),
    pytest.param([WORKLOAD], "waits in queue gpu: for its turn", id="new"),
    pytest.param(
        [WORKLOAD | {"status": {"conditions": [{"type": "Evicted", "status": "True", "reason": "Preempted"}]}}],
        "evicted from queue gpu (Preempted)",
        id="preempted",
    ),
    pytest.param(
        [WORKLOAD | {"status": {"conditions": [{"type": "Admitted", "status": "False"}]}}],
        "waits in queue gpu: for its turn",
        id="no longer admitted",
    ),
]


@pytest.mark.parametrize(("workloads", "line"), QUEUED)
def test_the_place_in_the_queue_is_told(workloads, line):
    said = []
    labels = {"kueue.x-k8s.io/queue-name": "gpu"}
    body = {"metadata": {"name": "a", "uid": "1", "labels": labels}, "spec": {"suspend": True}}
    News(said.append).tell_job(body, workloads)
    (told,) = said
    assert told.startswith(f"a: {line}")


WARNINGS = [
    pytest.param("a", "FailedCreate", True, id="of the job"),
    pytest.param("a-node-0", "FailedMount", True, id="of its pod"),
    pytest.param("ab-node-0", "FailedMount", False, id="of a job whose name begins alike"),
    pytest.param("a-node-0", "BackOff", False, id="said by the state of the pod"),
]


@pytest.mark.parametrize(("about", "reason", "is_told"), WARNINGS)
def test_warnings_about_the_job_are_told_once(about, reason, is_told):
    said = []
    news, body = News(said.append), {"metadata": {"name": "a", "uid": "1"}, "spec": {}}
    for _ in range(2):
        news.tell_job(body, warnings=[{"involvedObject": {"name": about}, "reason": reason, "message": "no room"}])
    assert said == [f"{about}: {reason}: no room"] * is_told


def test_what_never_held_is_no_news():
    said = []
    conditions = [{"type": kind, "status": "False"} for kind in ("Complete", "Failed", "Suspended")]
    body = {"metadata": {"name": "a", "uid": "1"}, "spec": {}, "status": {"conditions": conditions}}
    News(said.append).tell_job(body)
    assert said == ["a: no longer suspended ()"]
