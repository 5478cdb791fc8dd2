"""The pods of a training job, noted while they change: a restart takes a failed pod away within a second or two."""

import threading
import time

from components.contracts.errors import SearchR1Error
from components.train.trainjob_cluster import Cluster
from components.train.trainjob_news import News
from components.train.trainjob_pods import GpuClock, Pod, PodFailure, failure_of, name_of, part_of

FAILED_LOG_LINES = 50


class PodWatch:
    """What became of every pod of a job, also of those that are gone: states said once, failures, last lines, GPU time.

    A thread of its own watches until `finish`; whoever has a list of the pods may `note` them too.
    """

    def __init__(self, cluster: Cluster, job: str, news: News) -> None:
        self.clock = GpuClock()
        self.failures: dict[str, PodFailure] = {}
        self.last_lines: dict[str, list[str]] = {}
        self._cluster, self._job, self._news = cluster, job, news
        self._versions: dict[str, int] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        threading.Thread(target=self._watch, name=f"pods of {job}", daemon=True).start()

    def note(self, pod: Pod) -> None:
        """Take a pod as it is now."""
        version = int(pod["metadata"].get("resourceVersion", 0))
        with self._lock:
            # A list may be older than what the watch has said since.
            if self._over.is_set() or version < self._versions.get(name_of(pod), 0):
                return
            self._versions[name_of(pod)] = version
            self._news.tell_pod(pod)
            self.clock.note([pod])
            failed = failure_of(pod)
            if failed is not None and failed.pod not in self.failures:
                self.failures[failed.pod] = failed
                self.last_lines[failed.pod] = self._cluster.last_lines(failed.pod, part_of(pod), FAILED_LOG_LINES)

    def finish(self) -> None:
        """Note nothing more; waits for nobody."""
        self._over.set()

    def _watch(self) -> None:
        drops = 0
        while not self._over.is_set():
            began_s = time.monotonic()
            try:
                for pod in self._cluster.pod_changes(self._job):
                    self.note(pod)
            except SearchR1Error:
                # Whoever follows the job meets the same refusal, and reports it.
                pass
            early = time.monotonic() - began_s < self._cluster.patience.watch_s / 2
            drops = drops + 1 if early else 0
            if drops:
                self._over.wait(self._cluster.back_off_s(drops))
