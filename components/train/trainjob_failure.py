"""The one error of a training job that failed: why, where, its last lines, and where the next attempt continues."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.contracts.errors import ClusterError, RanksFailed, SearchR1Error
from components.storage import open_storage
from components.train.checkpoint_names import complete_checkpoints
from components.train.trainjob_pods import PodFailure, first_failure

_ERROR_LOG_LINES = 10
_TERMINATED = 143
_REMEDIES = {
    "OOMKilled": "raise train.launch.memory, or lower num_slots, micro_batch_rows or questions_per_step",
    "DeadlineExceeded": "raise train.launch.deadline_s, or start the step again: it continues",
    "Evicted": "look at the node's disk and memory; start the step again: it continues",
    "ImagePull": "check the image of the TrainingRuntime, and the pull secret of its account",
    "InvalidImageName": "correct the image of the TrainingRuntime",
    "CreateContainerConfigError": "create the Secret or ConfigMap that the TrainingRuntime names",
}


def newest_checkpoint(work_uri: str) -> str:
    """Return `continues from <uri>` of the newest complete checkpoint, empty when there is none."""
    storage = open_storage(work_uri)
    complete = complete_checkpoints(storage)
    return f"continues from {storage.uri(complete[-1])}" if complete else ""


def job_failed(
    job: str,
    reason: str,
    failures: Sequence[PodFailure],
    tails: Mapping[str, Sequence[str]],
    record: Mapping[str, Any] | None,
    resumes: str,
    gpu_s: float = 0.0,
) -> SearchR1Error:
    """Return the error of a failed job.

    What a rank says of itself (`record`, as components/contracts/step.py writes it) gives the exit code. Where a pod
    was killed, what other ranks say is that they lost one of them: it is the cluster's failure, and a retry may help
    (75), as it is when a rank was told to end or had no time to say anything.
    """
    cause = first_failure(failures)
    lines = [f"The TrainJob {job} failed: {reason}"]
    if cause is not None:
        lines.append(f"First to fail: {cause}")
    killed = cause is not None and cause.was_killed
    said = record is not None and record["exit_code"] != _TERMINATED and not killed
    if said:
        lines.append(f"It says: {record['type']}: {record['message']}")
    elif cause is not None and tails.get(cause.pod):
        lines += ["Its last lines:", *(f"  {line}" for line in tails[cause.pod][-_ERROR_LOG_LINES:])]
    why = f"{cause.reason if cause else ''} {reason}"
    lines += [f"What to do: {remedy}" for word, remedy in _REMEDIES.items() if word in why][:1]
    if gpu_s:
        lines.append(f"It took {gpu_s / 3600:.2f} GPU-hours")
    lines.append(f"A retry {resumes or 'starts from the beginning: there is no complete checkpoint yet'}")
    message = "\n".join(lines)
    return RanksFailed(message, record["exit_code"]) if said else ClusterError(message)
