"""Nothing outlives the process that started it, however that one ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.processes import alive, descendants

SLEEPER = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = """
import subprocess, sys
from pipeline.processes import adopt_orphans, stop_descendants
adopt_orphans()
children = [subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{code}' & wait"]) for code in sys.argv[2:]]
detached = subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=True)
print("started", flush=True)
sys.stdin.readline()
children[0].kill()
stop_descendants(float(sys.argv[1]))
print("stopped", flush=True)
sys.stdin.readline()
"""
CHILD = """
import os, sys, time
from pipeline.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("grace_s", "code", "least_processes"),
    [
        pytest.param("10", SLEEPER, 4, id="grandchildren, orphans and other sessions"),
        pytest.param("0.3", STUBBORN, 4, id="those that ignore SIGTERM"),
    ],
)
def test_stop_reaches_every_descendant(grace_s, code, least_processes):
    command = [sys.executable, "-c", PARENT, grace_s, code.replace("'", '"'), SLEEPER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        started = {parent.stdout.readline().strip() for _ in range(1)}
        assert started <= {"started", "up"}
        wait_until(lambda: len(descendants(parent.pid)) >= least_processes)
        below = descendants(parent.pid)
        parent.stdin.write("\n")
        parent.stdin.flush()
        while parent.stdout.readline().strip() != "stopped":
            pass
        assert [pid for pid in below if alive(pid)] == []
        parent.stdin.close()


def test_child_ends_with_a_killed_parent():
    starter = (
        "import subprocess, sys, os, time; "
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())]); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", starter, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not alive(child))


def test_child_of_a_parent_that_is_gone_ends_at_once():
    done = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, timeout=20)
    assert done.returncode == 128 + signal.SIGTERM
