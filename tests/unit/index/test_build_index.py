"""The index builder as a child process: its failures are told, and it never outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.errors import SearchError
from components.index.build import build_lucene_index, run_child
from components.index.config import IndexConfig


def test_a_failing_builder_tells_its_last_words(tmp_path):
    with pytest.raises(SearchError, match=r"exit code 1; its last words:\n(.|\n)*absent"):
        build_lucene_index(tmp_path / "absent", tmp_path / "index", IndexConfig(threads=1, heap="128m"))


def test_a_child_ends_with_its_code_and_last_lines():
    script = "import sys\nfor i in range(100): print('line', i)\nsys.exit(3)"
    exit_code, last_lines = run_child([sys.executable, "-c", script], dict(os.environ))
    assert exit_code == 3
    assert last_lines.splitlines()[-1] == "line 99"
    assert len(last_lines.splitlines()) == 30


def gone_within(pid: int, seconds: float) -> bool:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_child_dies_with_its_parent(tmp_path, how):
    pid_file = tmp_path / "pid"
    child = ["sh", "-c", f"echo $$ > {pid_file}.new && mv {pid_file}.new {pid_file} && exec sleep 60"]
    code = f"import os\nfrom components.index.build import run_child\nrun_child({child!r}, dict(os.environ))"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + 20
        while not pid_file.exists() and time.monotonic() < until_s:
            time.sleep(0.02)
        pid = int(pid_file.read_text())
        parent.send_signal(how)
        parent.wait(timeout=10)
        assert gone_within(pid, 5)
    finally:
        parent.kill()
        parent.wait()
