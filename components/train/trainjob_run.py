"""A training on pods of a Kubeflow TrainJob: submit or adopt it, follow it, bring home its result or one error.

The job's name follows from the run and its work, so that whoever comes again (a retry of the pipeline or of a person)
finds the job that is there. Everything that has to survive lies in the work prefix: checkpoints, settings, outputs.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from components.contracts.errors import FINAL_EXIT_CODES, ClusterError, ConfigError, SearchR1Error, StoppedBySignal
from components.contracts.manifest import Manifest
from components.contracts.step import StepContext, StepResult
from components.storage.store import MANIFEST_NAME
from components.train.config import TrainConfig
from components.train.gpu_hours import with_gpu_hours
from components.train.job_folder import JobFolder
from components.train.trainjob import RUN_ID_VARIABLE, job_name, train_job
from components.train.trainjob_cluster import Cluster, Patience
from components.train.trainjob_failure import job_failed, newest_checkpoint
from components.train.trainjob_logs import PodLog
from components.train.trainjob_news import News
from components.train.trainjob_pods import Pod, first_rank, is_node, name_of, stuck_reason
from components.train.trainjob_watch import PodWatch

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Submission:
    """One job and the folder it works from."""

    name: str
    body: Object
    folder: JobFolder
    work_uri: str
    """Where its checkpoints are."""


def run_train_job(
    config: TrainConfig, context: StepContext, inputs: Mapping[str, Manifest], patience: Patience | None = None
) -> StepResult:
    """Train on a cluster and return the first rank's result, with what the GPUs took.

    Raises:
        ConfigError: the cluster lacks the Trainer, the runtime or a Role, refuses the job, or a rank says so.
        RanksFailed: a rank failed.
        ClusterError: the cluster failed to run the job, or does not answer.
        StoppedBySignal: SIGTERM; the job is deleted, and its ranks save a checkpoint before they end.
    """
    submission = _submission(config, context, inputs)
    cluster = Cluster.connect(patience or Patience())
    with _raised_on_sigterm():
        try:
            cluster.check_runtime(config.launch.runtime)
            submission.folder.write_inputs(config, context, inputs)
            _submit_or_adopt(cluster, submission)
            gpu_s = _Following(cluster, submission, config).to_the_end()
        except (StoppedBySignal, KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            cluster.delete(submission.name)
            raise StoppedBySignal(
                f"stopped by a signal; the TrainJob {submission.name} is deleted, its ranks save a checkpoint first. "
                "A retry continues from there"
            ) from None
    return with_gpu_hours(submission.folder.result(), gpu_s, config.launch.usd_per_gpu_hour)


def _submission(config: TrainConfig, context: StepContext, inputs: Mapping[str, Manifest]) -> Submission:
    if not context.storage_root.startswith("s3://"):
        raise ConfigError(
            f"The storage root {context.storage_root} is out of reach for pods of a TrainJob",
            "s3://bucket/prefix",
            "set p07_storage_root to a bucket, or choose another train.launch.backend",
        )
    name = job_name(os.environ.get(RUN_ID_VARIABLE, ""), context.work_key(dict(inputs)))
    work_uri = context.work_uri(dict(inputs))
    folder = JobFolder(f"{work_uri}/launch/{name}")
    index_manifest_uri = f"{inputs['index'].uri.rstrip('/')}/{MANIFEST_NAME}"
    body = train_job(config, name, folder.uri, index_manifest_uri, os.environ)
    return Submission(name, body, folder, work_uri)


def _submit_or_adopt(cluster: Cluster, submission: Submission) -> None:
    """Make the job, or take over the one of its name: a finished one is read, a failed one is made anew."""
    name = submission.name
    while not cluster.create(submission.body):
        found, _ = cluster.job(name)
        if found is None:
            continue
        if "deletionTimestamp" in found["metadata"]:
            print(f"an earlier TrainJob {name} is on its way out, waiting until its pods have ended", flush=True)
        elif has_condition(found, "Complete") and submission.folder.has_result():
            print(f"TrainJob {name} is there and has finished", flush=True)
            return
        elif has_condition(found, "Failed") or has_condition(found, "Complete"):
            print(f"TrainJob {name} is there and has failed: it is made anew and continues", flush=True)
            cluster.delete(name)
        else:
            print(f"TrainJob {name} is there and goes on", flush=True)
            cluster.adopt(name)
            return
        _wait_until_gone(cluster, name)
        submission.folder.clear()
    resumes = newest_checkpoint(submission.work_uri)
    print(f"TrainJob {cluster.namespace}/{name} submitted, {resumes or 'from the beginning'}", flush=True)


def _wait_until_gone(cluster: Cluster, name: str) -> None:
    limit_s = time.monotonic() + cluster.patience.deletion_s
    while True:
        found, version = cluster.job(name)
        if found is None:
            return
        if time.monotonic() > limit_s:
            raise ClusterError(
                f"the earlier TrainJob {name} has not gone within {cluster.patience.deletion_s:.0f} s of its deletion; "
                f"look at: kubectl -n {cluster.namespace} describe trainjob {name}"
            )
        cluster.wait_for_news(name, version)


class _Following:
    """A job from its submission to its end."""

    def __init__(self, cluster: Cluster, submission: Submission, config: TrainConfig) -> None:
        self._cluster, self._submission, self._config = cluster, submission, config
        self._news = News()
        self._pods = PodWatch(cluster, submission.name, self._news)
        self._log: PodLog | None = None
        self._stuck_since_s: dict[str, float] = {}

    def to_the_end(self) -> float:
        """Follow the job until it is complete and return its GPUs' seconds.

        Raises:
            RanksFailed, ClusterError, ConfigError: it failed or cannot succeed.
        """
        try:
            return self._follow()
        finally:
            self._pods.finish()

    def _follow(self) -> float:
        cluster, name = self._cluster, self._submission.name
        while True:
            job, version = cluster.job(name)
            if job is None:
                raise self._failed("it was deleted by somebody else")
            pods = cluster.pods(name)
            self._look_at(job, pods)
            if has_condition(job, "Complete"):
                self._finish_log()
                return self._pods.clock.gpu_s()
            if has_condition(job, "Failed"):
                raise self._failed(_said(job, "Failed"))
            self._refuse_the_hopeless(pods)
            cluster.wait_for_news(name, version)

    def _look_at(self, job: Object, pods: list[Pod]) -> None:
        # What keeps pods from running; once they all do, the namespace's events are not read again and again.
        running = sum(is_node(pod) and pod["status"].get("phase") == "Running" for pod in pods)
        waits = running < self._config.parallel.num_nodes
        queued = self._cluster.workloads() if waits and self._config.launch.queue else []
        self._news.tell_job(job, queued, self._cluster.warnings() if waits else [])
        for pod in pods:
            self._pods.note(pod)
        first = first_rank(pods)
        if first is not None and (self._log is None or self._log.pod != name_of(first)):
            self._finish_log()
            self._log = PodLog(self._cluster, name_of(first))

    def _refuse_the_hopeless(self, pods: list[Pod]) -> None:
        """End a job whose next attempts would end like this one.

        Raises:
            ConfigError, ClusterError: that is so.
        """
        record = self._submission.folder.error() if self._pods.failures else None
        if record is not None and record["exit_code"] in FINAL_EXIT_CODES:
            self._cluster.delete(self._submission.name)
            raise self._failed("a rank ended it, and another attempt would end the same way")
        stuck = {name_of(pod): reason for pod in pods if (reason := stuck_reason(pod))}
        now_s = time.monotonic()
        self._stuck_since_s = {pod: self._stuck_since_s.get(pod, now_s) for pod in stuck}
        for pod, since_s in self._stuck_since_s.items():
            if now_s - since_s >= self._config.launch.image_patience_s:
                self._cluster.delete(self._submission.name)
                raise self._failed(f"pod {pod} could not start for {now_s - since_s:.0f} s: {stuck[pod]}")

    def _failed(self, reason: str) -> SearchR1Error:
        self._finish_log()
        for pod, lines in self._pods.last_lines.items():
            print(f"--- the last {len(lines)} lines of {self._pods.failures[pod]}", *lines, "---", sep="\n", flush=True)
        return job_failed(
            f"{self._cluster.namespace}/{self._submission.name}",
            reason,
            list(self._pods.failures.values()),
            self._pods.last_lines,
            self._submission.folder.error(),
            newest_checkpoint(self._submission.work_uri),
            self._pods.clock.gpu_s(),
        )

    def _finish_log(self) -> None:
        if self._log is not None:
            self._log.finish()


def has_condition(job: Object, kind: str) -> bool:
    """Return whether a condition of the job holds."""
    return any(c["type"] == kind and c["status"] == "True" for c in job.get("status", {}).get("conditions", []))


def _said(job: Object, kind: str) -> str:
    held = next(c for c in job["status"]["conditions"] if c["type"] == kind)
    return f"{held.get('reason', kind)}: {held.get('message', '')}".rstrip(": ")


@contextmanager
def _raised_on_sigterm() -> Iterator[None]:
    """Raise StoppedBySignal wherever the block is when SIGTERM comes, also in the middle of a wait."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedBySignal("stopped by SIGTERM")

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
