"""What may happen to a training job on the fake cluster, and what its ranks leave for the launcher."""

import json

from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import OUTPUT_NAMES
from components.storage import open_storage
from components.train.job_folder import JobFolder
from components.train.trainjob_cluster import Patience
from tests.unit.train.fake_kubernetes import FakeCluster, ended

PATIENCE = Patience(
    watch_s=1,
    request_s=30,
    first_back_off_s=0.02,
    longest_back_off_s=0.1,
    lost_contact_s=0.5,
    deletion_s=60,
    last_log_s=20,
)
SCHEDULED = {"startTime": "2026-11-26T11:59:30Z"}
RESULT = Manifest(
    kind="checkpoint",
    uri="s3://bucket/store/checkpoint/1",
    files=(),
    digest="d" * 64,
    produced_by=ProducedBy(step="train", version="1", git_commit="c", config_sha256="0"),
)


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


def refuse_first(method: str, path: str, *statuses: int):
    left = list(statuses)

    def refuse(asked: str, at: str) -> int | None:
        return left.pop(0) if left and asked == method and at.startswith(path) else None

    return refuse
