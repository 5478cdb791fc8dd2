"""The index builder as a child process: its failures are told, and it never outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.errors import SearchError
from components.index.build import build_lucene_index, builder_command, run_child
from components.index.config import IndexConfig


def test_a_failing_builder_tells_its_last_words(tmp_path):
    with pytest.raises(SearchError, match=r"exit code 1; its last words:\n(.|\n)*absent"):
        build_lucene_index(tmp_path / "absent", tmp_path / "index", IndexConfig(threads=1, heap="128m"))


def test_the_builder_gets_the_heap_that_is_set(tmp_path):
    """Java says which options it was given."""
    with pytest.raises(SearchError, match=r"JAVA_TOOL_OPTIONS:.* -Xmx131m "):
        build_lucene_index(tmp_path / "absent", tmp_path / "index", IndexConfig(threads=1, heap="131m"))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        pytest.param({"threads": 3}, {"--threads 3", "--storeRaw", "--optimize"}, id="as it is by itself"),
        pytest.param({"threads": 1, "optimize": False}, {"--threads 1", "--storeRaw"}, id="in segments"),
        pytest.param(
            {"threads": 1, "store_positions": True},
            {"--threads 1", "--storeRaw", "--optimize", "--storePositions"},
            id="positions",
        ),
        pytest.param(
            {"threads": 1, "store_docvectors": True},
            {"--threads 1", "--storeRaw", "--optimize", "--storeDocvectors"},
            id="vectors",
        ),
    ],
)
def test_the_builder_is_told_every_setting(settings, options):
    command = " ".join(builder_command(Path("/corpus"), Path("/index"), IndexConfig(**settings)))
    known = {f"--threads {number}" for number in (1, 3)}
    known |= {"--storeRaw", "--optimize", "--storePositions", "--storeDocvectors"}
    assert {option for option in known if option in command} == options
    assert "--input /corpus --index /index" in command


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


ITSELF = "echo $$ > {file}.new && mv {file}.new {file} && exec sleep 60"
CHILD_OF_ITS_OWN = "sleep 60 & echo $! > {file}.new && mv {file}.new {file} && wait"


@pytest.mark.parametrize(
    ("how", "script"),
    [
        pytest.param(signal.SIGKILL, ITSELF, id="killed"),
        pytest.param(signal.SIGINT, ITSELF, id="interrupted"),
        # The builder is a Python that starts Java.
        pytest.param(signal.SIGINT, CHILD_OF_ITS_OWN, id="interrupted, and what the child started"),
    ],
)
def test_the_child_dies_with_its_parent(tmp_path, how, script):
    pid_file = tmp_path / "pid"
    child = ["sh", "-c", script.format(file=pid_file)]
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
