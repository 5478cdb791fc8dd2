"""A training job on a cluster, from submission to its result or its one error, against a fake API server."""

import json
import threading
import time
from dataclasses import replace

import pytest

from components.contracts.errors import ClusterError, MissingError, RanksFailed
from components.contracts.manifest import Manifest
from components.train.trainjob import job_name
from tests.unit.train.fake_kubernetes import JOBS, ended
from tests.unit.train.trainjob_stories import (
    PATIENCE,
    RESULT,
    SCHEDULED,
    fail,
    folder_of,
    leave_checkpoint,
    leave_error,
    refuse_first,
    succeed,
)


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


def test_a_failed_job_is_made_anew_and_continues(cluster, train, capsys):
    def story(cluster, job):
        leave_checkpoint(job, 40)
        leave_error(job, "SearchError", "no", 75)
        cluster.pod(job, 0, phase="Failed", **ended(1))
        fail(cluster, job)

    cluster.story = story
    with pytest.raises(RanksFailed, match="SearchError: no"):
        train()
    cluster.story = succeed
    assert train().manifest == RESULT
    said = capsys.readouterr().out
    assert "is there and has failed: it is made anew" in said
    assert "submitted, continues from s3://" in said and "/step_000040" in said
    (job,) = cluster.jobs.values()
    assert folder_of(job).error() is None
    # The name is free once the pods have ended: two jobs would write the same checkpoints.
    assert cluster.deletions == ["Foreground"]


def test_a_job_that_ended_without_a_result_is_made_anew(cluster, train, capsys):
    cluster.story = lambda cluster, job: cluster.condition(job, "Complete", "JobsCompleted", "completed")
    with pytest.raises(MissingError):
        train()
    cluster.story = succeed
    assert train().manifest == RESULT
    assert "it is made anew" in capsys.readouterr().out


def test_pods_of_other_jobs_are_nobodys_concern(cluster, train, capsys):
    def story(cluster, job):
        other = job | {"metadata": {"name": "other"}}
        cluster.pod(other, 0, phase="Failed", **ended(137, "OOMKilled"))
        succeed(cluster, job)

    cluster.story = story
    assert train().metrics["gpu_hours"] == 0.1333
    assert "other" not in capsys.readouterr().out


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


def test_a_job_that_does_not_go_is_not_waited_for_for_ever(cluster, train):
    cluster.deletion_s = 3600
    cluster.story = succeed
    train()
    (name,) = cluster.jobs
    cluster.delete(name)
    with pytest.raises(ClusterError, match="has not gone within 0 s"):
        train(replace(PATIENCE, deletion_s=0.1))


def test_a_restart_goes_on_in_new_pods(cluster, train, capsys):
    def story(cluster, job):
        first = cluster.pod(job, 0, **SCHEDULED)
        cluster.say(first, "step 1/2")
        cluster.wait_until_seen("pods")
        leave_error(job, "SearchError", "retriever down", 75)
        # Nothing about the job changes, and a moment later the pod is gone.
        cluster.pod(job, 0, phase="Failed", **ended(1))
        time.sleep(0.1)
        cluster.take_pods()
        folder_of(job).forget_error()
        succeed(cluster, job, attempt=1)

    cluster.story = story
    result = train()
    assert result.metrics["gpu_hours"] == 0.2
    said = capsys.readouterr().out
    assert "(node 0): Failed: Error, exit code 1" in said
    assert "(node 0, restart 1): Succeeded" in said


def test_a_job_waits_in_the_queue_until_it_is_admitted(cluster, train, capsys):
    def story(cluster, job):
        owner = {"metadata": {"ownerReferences": [{"uid": job["metadata"]["uid"]}]}}
        message = "couldn't assign flavors: insufficient quota for nvidia.com/gpu"
        cluster.workloads = [
            owner | {"status": {"conditions": [{"type": "QuotaReserved", "status": "False", "message": message}]}}
        ]
        cluster.condition(job, "Suspended", "Suspended", "TrainJob is suspended")
        cluster.wait_until_seen("workloads")
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
        cluster.wait_until_seen("events")
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
    cluster.broken_watches = {"trainjobs": [how] * 3, "pods": [how] * 3}
    assert train().manifest == RESULT
    assert cluster.broken_watches == {"trainjobs": [], "pods": []}


@pytest.mark.parametrize(
    "lost_contact_s",
    [pytest.param(0.5, id="server away"), pytest.param(0.0, id="this machine halted")],
)
def test_a_server_that_is_away_for_a_moment_is_waited_for(cluster, train, lost_contact_s):
    cluster.story = succeed
    cluster.refuse = refuse_first("GET", JOBS, 503, 0, 429)
    assert train(replace(PATIENCE, lost_contact_s=lost_contact_s)).manifest == RESULT


@pytest.mark.parametrize("status", [0, 401, 408, 429, 500, 502, 503, 504])
def test_an_answer_that_may_be_another_in_a_moment_is_asked_for_again(cluster, train, status):
    cluster.story = succeed
    cluster.refuse = refuse_first("GET", JOBS, status)
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


def test_other_inputs_are_other_work(cluster, train):
    cluster.story = succeed
    for digest in ("d" * 64, "e" * 64):
        train(index=RESULT.model_copy(update={"digest": digest}))
    assert len(cluster.jobs) == 2


def test_the_name_follows_from_run_and_work():
    names = {job_name(run, work) for run in ("run-7", "run-8") for work in ("a", "b")}
    assert len(names) == 4 and all(len(name) == 14 for name in names)
    assert job_name("run-7", "a") == job_name("run-7", "a")
