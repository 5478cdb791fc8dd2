"""One run on this machine: its lock, its signals, its errors; a ten-line script stands in for kfp.local."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from components.contracts.errors import UserError
from pipeline.local import RunFolder, StepFailed, Stopped, StopSignals, locked, point_latest, run_dag

WORKER = """
import json, os, sys
request = json.load(open(sys.argv[1]))
print("Executing task 'train'", flush=True)
print("    hello from", request["parameters"]["name"], os.environ["COLOUR"], flush=True)
exec(request["parameters"]["code"])
print("Task 'train' finished with status SUCCESS", flush=True)
"""
RUNNER = """
import sys
from pathlib import Path
from pipeline.local import RunFolder, Stopped, StopSignals, locked, run_dag
folder = RunFolder(Path(sys.argv[1]), "r1")
with StopSignals() as stop, locked(folder.root) as lock:
    try:
        worker = [sys.executable, "-c", sys.argv[3]]
        run_dag({"name": "x", "code": sys.argv[2]}, folder, {"COLOUR": "red"}, lock, stop, worker=worker)
    except Stopped as stopped:
        print(stopped)
        sys.exit(stopped.exit_code)
"""
SLEEP = "import time; time.sleep(61)"
SLEEP_BELOW = "import subprocess; subprocess.run(['sleep', '61'])"


def run(tmp_path, code):
    folder = RunFolder(tmp_path, "r1")
    parameters = {"name": "x", "code": code}
    with StopSignals() as stop, locked(tmp_path) as lock:
        return run_dag(parameters, folder, {"COLOUR": "red"}, lock, stop, worker=[sys.executable, "-c", WORKER])


def test_lines_are_shown_and_kept_and_tasks_recorded(tmp_path, capsys):
    records = run(tmp_path, "print('noise')")
    assert [(record.task, record.state) for record in records] == [("train", "done")]
    shown = capsys.readouterr().out
    assert "| hello from x red" in shown
    assert "noise" not in shown
    assert "noise" in RunFolder(tmp_path, "r1").log.read_text()


def test_bytes_that_are_no_text_break_nothing(tmp_path):
    assert run(tmp_path, r"sys.stdout.buffer.write(b'    \xff\xfe\n'); sys.stdout.flush()")


def recorded(exit_code, trace):
    error = {"type": "CorpusError", "message": "line 3 is no JSON", "exit_code": exit_code, "traceback": trace}
    return f"""
open(os.environ["SEARCHR1_ERROR_FILE"], "w").write({json.dumps(error)!r})
print("Task 'corpus' finished with status FAILURE", flush=True)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        pytest.param(recorded(2, ""), 2, "^corpus: CorpusError: line 3 is no JSON$", id="user error"),
        pytest.param(recorded(75, ""), 75, "line 3", id="infrastructure"),
        pytest.param(recorded(1, "a\nx.py, line 9\nx = 1/0\nBoom"), 1, r"(?s)defect of ours.*line 9", id="defect"),
        pytest.param("os.kill(os.getpid(), 9)", 1, "without saying why", id="killed worker"),
    ],
)
def test_failures_carry_the_steps_words_and_exit_code(tmp_path, code, exit_code, words):
    with pytest.raises(StepFailed, match=words) as failed:
        run(tmp_path, code)
    assert failed.value.exit_code == exit_code


def test_the_worker_holds_the_folder_too(tmp_path, capsys):
    """When this process is killed, the next run waits until the worker has ended its steps."""
    code = "held = [os.path.realpath(f'/proc/self/fd/{number}') for number in os.listdir('/proc/self/fd')]; "
    run(tmp_path, code + f"print('    holds it:', {str(tmp_path / '.lock')!r} in held)")
    assert "| holds it: True" in capsys.readouterr().out


def test_a_signal_that_was_ignored_before_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_ran_before_is_not_stopped():
    sleeper = [sys.executable, "-c", SLEEP]
    with subprocess.Popen(sleeper) as stranger, StopSignals() as stop, subprocess.Popen(sleeper) as ours:
        try:
            stop.stop_all(grace_s=20)
            assert stranger.poll() is None
            assert ours.wait(timeout=20) == -signal.SIGTERM
        finally:
            stranger.kill()
            ours.kill()


def test_a_signal_before_the_worker_starts_starts_none(tmp_path):
    with StopSignals() as stop, locked(tmp_path) as lock:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            run_dag({}, RunFolder(tmp_path, "r1"), {}, lock, stop, worker=[sys.executable, "-c", "raise SystemExit"])
    assert not RunFolder(tmp_path, "r1").log.exists()


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_end_of_a_killed_run_is_waited_for(tmp_path):
    code = "import fcntl, os, sys, time; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); "
    code += "lock.write('999999999'); lock.flush(); print('held', flush=True); time.sleep(0.5)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / ".lock"], stdout=subprocess.PIPE) as dying:
        dying.stdout.readline()
        with locked(tmp_path):
            assert dying.wait() == 0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"), locked(tmp_path / "file" / "runs"):
        pass


def test_latest_follows_the_last_run(tmp_path):
    for run_id in ("r1", "r2"):
        (tmp_path / run_id).mkdir()
        link = point_latest(RunFolder(tmp_path, run_id))
    assert link.resolve() == tmp_path / "r2"


@pytest.mark.parametrize(
    ("numbers", "code", "exit_code"),
    [
        pytest.param([signal.SIGINT], SLEEP_BELOW, 130, id="Ctrl-C"),
        pytest.param([signal.SIGTERM], SLEEP_BELOW, 143, id="SIGTERM"),
        pytest.param(
            [signal.SIGINT, signal.SIGINT],
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); import time; time.sleep(61)",
            130,
            id="Ctrl-C twice on a worker that will not stop",
        ),
        pytest.param([signal.SIGKILL], SLEEP_BELOW, -9, id="SIGKILL, with a worker that watches its parent"),
    ],
)
def test_signals_leave_no_process(tmp_path, numbers, code, exit_code):
    watch = "from pipeline.local_worker import watch_parent; watch_parent(request['parent_pid'])\n"
    worker = WORKER.replace("exec(", watch + "exec(") if signal.SIGKILL in numbers else WORKER
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path), code, worker], stdout=subprocess.PIPE
    ) as parent:
        while b"hello" not in parent.stdout.readline():
            pass
        time.sleep(0.3)
        for number in numbers:
            parent.send_signal(number)
            time.sleep(0.3)
        parent.stdout.read()
        assert parent.wait(timeout=20) == exit_code
    deadline = time.monotonic() + 10
    while processes_naming(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_naming(str(tmp_path)) == []
    with locked(tmp_path):
        pass


def processes_naming(text):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as command, open(f"/proc/{pid}/environ") as environment:
                if text in command.read() + environment.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            continue
    return found
