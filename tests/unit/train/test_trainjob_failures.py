"""What goes wrong with a training job is one error that says why, where, and from where a retry continues."""

import pytest

from components.contracts.errors import ClusterError, ConfigError, RanksFailed
from components.contracts.step import StepContext
from components.train.config import TrainConfig
from components.train.trainjob_run import run_train_job
from tests.unit.train.fake_kubernetes import JOBS, PODS, ended, waiting
from tests.unit.train.trainjob_stories import PATIENCE, SCHEDULED, fail, leave_checkpoint, leave_error, refuse_first

RUNTIMES = JOBS.replace("trainjobs", "trainingruntimes")


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
    leave_error(job, "TrainingStopped", "too many skipped updates", 3)
    cluster.pod(job, 1, phase="Failed", **ended(143, seconds=2))
    cluster.pod(job, 0, phase="Failed", **ended(1, seconds=3))


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
        [
            "JobsFailed",
            "(node 1): OOMKilled, exit code 137",
            "line 79",
            "raise train.launch.memory",
            "GPU-hours",
            "step_000030",
        ],
        id="out of memory",
    ),
    pytest.param(refused_by_a_rank, 2, ["ConfigError: no such thing", "mend it"], id="user error"),
    pytest.param(
        stopped_by_its_rules, 3, ["(node 0): Error, exit code 1", "TrainingStopped: too many"], id="rule of training"
    ),
    pytest.param(too_late, 75, ["DeadlineExceeded", "raise train.launch.deadline_s"], id="deadline"),
    pytest.param(no_image, 75, ["could not start for", "ImagePullBackOff: Back-off", "check the image of"], id="image"),
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
    if story in (refused_by_a_rank, stopped_by_its_rules, no_image):
        # Neither a restart nor waiting mends it: the GPUs are given back.
        assert cluster.count("DELETE", JOBS) == 1


REFUSALS = [
    pytest.param("POST", JOBS, 403, "launcher-role.yaml", id="no role"),
    pytest.param("GET", PODS, 403, "may not list pods", id="no role for pods"),
    pytest.param("POST", JOBS, 422, "refuses the job: it is refused here", id="invalid"),
    pytest.param("GET", RUNTIMES, 404, "Trainer is not installed", id="no Trainer"),
]


@pytest.mark.parametrize(("method", "path", "status", "says"), REFUSALS)
def test_what_a_person_must_mend_is_said(cluster, train, method, path, status, says):
    cluster.refuse = refuse_first(method, path, *[status] * 100)
    with pytest.raises(ConfigError) as raised:
        train()
    assert says in str(raised.value)


def test_a_webhook_that_refuses_is_not_taken_for_a_missing_role(cluster, train):
    cluster.refusal = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: PET_NNODES'
    cluster.refuse = refuse_first("POST", JOBS, 403)
    with pytest.raises(ConfigError, match="refuses the job: admission webhook") as raised:
        train()
    assert "Role" not in str(raised.value)


def test_a_missing_runtime_is_named(cluster, train):
    with pytest.raises(ConfigError, match="no TrainingRuntime 'elsewhere'"):
        train(runtime="elsewhere")


def test_pods_cannot_reach_this_machine(cluster, tmp_path):
    config = TrainConfig.parse({"launch": {"backend": "trainjob"}})
    with pytest.raises(ConfigError, match="out of reach"):
        run_train_job(config, StepContext("train", f"file://{tmp_path}", "c", "d"), {}, PATIENCE)
