"""The retriever service as a process of its own."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import urllib3

ROOT = Path(__file__).resolve().parents[2]


class Retriever:
    """`python -m components.retriever` and what it printed."""

    def __init__(self, manifest_uri: str, settings: str = "port=0", **environment: str) -> None:
        command = [sys.executable, "-m", "components.retriever", "--set", settings]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SEARCHR1_INDEX_MANIFEST_URI": manifest_uri} | environment
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.printed: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def url(self) -> str:
        wait_until(lambda: any("http://" in line for line in self.printed) or self.process.poll() is not None)
        return re.search(r"http://[\d.]+:\d+", "".join(self.printed))[0]

    def page(self, path: str) -> str:
        return urllib3.PoolManager().request("GET", self.url + path).data.decode()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def _read(self) -> None:
        self.printed.extend(self.process.stdout)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
