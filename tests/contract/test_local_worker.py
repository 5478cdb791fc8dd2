"""What the local run relies on in kfp.local: log lines, cache, exit code, groups in a condition in an exit handler.

Shown by a pipeline of the same shape as ours with a few tasks that do nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.log_view import LogView

SCRIPT = """
import dataclasses, json, logging, sys
from typing import NamedTuple
from kfp import dsl
from kfp.dsl import Dataset, Input, Markdown, Metrics, Output, PipelineTaskFinalStatus
from kfp.dsl.python_component import PythonComponent
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

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def bystander(text: str):
    print("standing by")

waiting = PythonComponent(dataclasses.replace(bystander.component_spec, name="wait"), bystander.python_func)

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def decide(text: str, card: Output[Markdown]) -> NamedTuple("Decided", [("Output", str), ("text", str)]):
    with open(card.path, "w") as stream:
        stream.write("card")
    return ("stop" if text == "stop" else "go", text)

@dsl.component(base_image="python:3.11", install_kfp_package=False)
def tell(status: PipelineTaskFinalStatus):
    print("told", status.state)

class Made(NamedTuple):
    manifest: Dataset

@dsl.pipeline(name="making")
def making(text: str) -> Made:
    return Made(manifest=make(text=text).set_retry(3).set_display_name("Make").outputs["manifest"])

@dsl.pipeline(name="using")
def using(text: str, manifest: Input[Dataset]):
    use(manifest=manifest).set_caching_options(False).set_retry(3)
    waiting(text=text)

@dsl.pipeline(name="shape")
def shape(text: str):
    with dsl.ExitHandler(tell().set_caching_options(False), name="Run"):
        decided = decide(text=text).set_caching_options(False)
        with dsl.If(decided.outputs["Output"] == "go"):
            made = making(text=decided.outputs["text"]).set_display_name("Making")
            using(text=decided.outputs["text"], manifest=made.outputs["manifest"])

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run_pipeline(shape, json.loads(sys.argv[1]))
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
    around = [("decide", "done"), ("use", "done"), ("wait", "done"), ("tell", "done")]
    code, states, lines = worker("good")
    assert (code, states) == (0, [around[0], ("make", "done"), *around[1:]])
    assert "making" in lines
    assert "using good" in lines
    assert "told SUCCEEDED" in lines
    code, states, lines = worker("good")
    around[2] = ("wait", "cached")
    assert (code, states) == (0, [around[0], ("make", "cached"), *around[1:]])
    assert "making" not in lines
    assert ("make", "done") in worker("good", cached=False)[1]


def test_a_failed_task_is_named_run_once_and_ends_the_run_but_not_its_exit_handler(worker):
    code, states, lines = worker("bad")
    assert (code, states) == (1, [("decide", "done"), ("make", "done"), ("use", "failed"), ("tell", "done")])
    assert lines.count("using bad") == 1
    assert "told FAILED" in lines


def test_what_stands_below_a_condition_is_left_out(worker):
    code, states, lines = worker("stop")
    assert (code, states) == (0, [("decide", "done"), ("tell", "done")])
    assert "told SUCCEEDED" in lines
