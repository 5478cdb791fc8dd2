"""What the local run relies on in kfp.local: log lines, cache, exit code; shown by a pipeline of two tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.log_view import LogView

SCRIPT = """
import json, logging, sys
from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output
from pipeline.local_worker import run_pipeline

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def make(text: str, manifest: Output[Dataset], metrics: Output[Metrics]):
    print("making")
    for artifact in (manifest, metrics):
        with open(artifact.path, "w") as stream:
            stream.write(text)

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def use(manifest: Input[Dataset]):
    with open(manifest.path) as stream:
        text = stream.read()
    print("using", text)
    if text == "bad":
        raise SystemExit(2)

@dsl.pipeline(name="two")
def two(text: str):
    made = make(text=text).set_retry(3)
    use(manifest=made.outputs["manifest"]).set_caching_options(False).set_retry(3)

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run_pipeline(two, json.loads(sys.argv[1]))
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(text, cached=True):
        request = {
            "parameters": {"text": text},
            "pipeline_root": str(tmp_path / "root"),
            "cache_root": str(tmp_path / "cache"),
            "cached": cached,
        }
        command = [sys.executable, str(script), json.dumps(request)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), timeout=60
        )
        view = LogView()
        lines = [line for raw in done.stdout.splitlines() if (line := view.feed(raw))]
        states = [(record.task, record.state) for record in view.records]
        return done.returncode, states, [line.partition("| ")[2] for line in lines]

    return run


def environment(tmp_path):
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TMPDIR": str(tmp_path)}


def test_a_cached_task_is_named_as_cached_the_second_time(worker):
    code, states, lines = worker("good")
    assert (code, states) == (0, [("make", "done"), ("use", "done")])
    assert "making" in lines
    assert "using good" in lines
    code, states, lines = worker("good")
    assert (code, states) == (0, [("make", "cached"), ("use", "done")])
    assert "making" not in lines
    assert worker("good", cached=False)[1] == [("make", "done"), ("use", "done")]


def test_a_failed_task_is_named_run_once_and_ends_the_worker(worker):
    code, states, lines = worker("bad")
    assert (code, states) == (1, [("make", "done"), ("use", "failed")])
    assert lines.count("using bad") == 1
