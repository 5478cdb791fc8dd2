"""The log of the first rank, on this step's own output while it is written, whatever becomes of the connection."""

import re
import threading

import urllib3
from kubernetes.client.exceptions import ApiException

from components.train.trainjob_cluster import Cluster

_STAMPED = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?")


class PodLog:
    """Prints the log of one pod from a thread of its own until `finish`.

    After a broken connection it asks for the lines since the last one and leaves out those it has printed: their time
    stamps tell. A failure to read a log never fails the job.
    """

    def __init__(self, cluster: Cluster, pod: str) -> None:
        self.pod = pod
        self._cluster = cluster
        self._last_stamp, self._last_order = "", ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"log {pod}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Let the rest of the log of a pod that has ended through, for `Patience.last_log_s` at most."""
        self._over.set()
        self._thread.join(self._cluster.patience.last_log_s)

    def _follow(self) -> None:
        delay_s = self._cluster.patience.first_back_off_s
        while True:
            # Read once more after the pod has ended: what it wrote last may not have come through yet.
            last_time = self._over.is_set()
            before = self._last_order
            try:
                for line in self._cluster.log_lines(self.pod, self._last_stamp):
                    self._print(line)
            except (ApiException, urllib3.exceptions.HTTPError, OSError):
                pass
            if last_time:
                return
            came_further = self._last_order != before
            delay_s = self._cluster.patience.first_back_off_s if came_further else delay_s * 2
            self._over.wait(min(delay_s, self._cluster.patience.longest_back_off_s))

    def _print(self, line: str) -> None:
        stamped = _STAMPED.match(line)
        if stamped is None:
            print(line, flush=True)
            return
        order = f"{stamped[1]}.{(stamped[2] or '').ljust(9, '0')}"
        if order > self._last_order:
            self._last_stamp, self._last_order = stamped[0].strip(), order
            print(line[stamped.end() :], flush=True)
