"""The compiled YAML, as a cluster gets it, run by kfp.local: the way of a scheduled run that finds nothing new."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.storage.source_version import source_version
from components.tracking import open_client
from pipeline.compiled import compile_pipeline
from pipeline.log_view import LogView
from tests.servers import webhook

SCRIPT = """
import json, logging, sys, yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec
from pipeline.local_worker import make_stop_at_failure, run_pipeline

# A pipeline loaded from YAML parses it anew whenever it is looked at: the text has to be changed.
pipeline, platform = yaml.safe_load_all(open(sys.argv[1]))
spec = json_format.ParseDict(pipeline, PipelineSpec())
make_stop_at_failure(spec)
text = yaml.safe_dump_all([json_format.MessageToDict(spec), platform])
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run_pipeline(components.load_component_from_text(text), json.loads(sys.argv[2]))
"""


@pytest.fixture
def told():
    """The address of a webhook, and what it was told."""
    with webhook() as (address, messages):
        yield address, messages


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_night_without_news_runs_one_step_and_a_new_corpus_more(tmp_path, told):
    compile_pipeline(tmp_path / "pipeline.yaml", "registry.example/searchr1-cpu:git-0123abc")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "fine"}\n')
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = open_client(uri)
    client.create_registered_model("m")
    client.create_model_version("m", "file:///x", tags={"corpus_version": source_version(str(corpus), bool)})
    client.set_registered_model_alias("m", "champion", "1")

    def run(run_id, **parameters):
        given = {"p02_corpus_uri": str(corpus), "p05_model_name": "m", "p07_storage_root": f"file://{tmp_path}/runs"}
        request = {
            "parameters": {"p01_preset": "small-world-quick", "p08_only_new_corpus": "yes"} | given | parameters,
            "pipeline_root": str(tmp_path / "root"),
            "cache_root": str(tmp_path / "cache"),
            "cached": True,
        }
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TMPDIR": str(tmp_path)}
        environment |= {"MLFLOW_TRACKING_URI": uri, "SEARCHR1_RUN_ID": run_id, "SEARCHR1_WEBHOOK_URL": told[0]}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "pipeline.yaml"), json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment | {"NO_PROXY": "127.0.0.1"})
        view = LogView()
        for line in done.stdout.splitlines():
            view.feed(line)
        return done.returncode, {record.task: record.state for record in view.records}

    assert run("night-1") == (0, {"resolve": "done", "notify": "done"})
    assert told[1].pop()["state"] == "nothing_new"
    corpus.write_text('{"id": "1", "contents": "new!"}\n{"id"\n')
    # It goes on now, to the line that is no JSON.
    code, states = run("night-2")
    assert (code, states) == (
        1,
        {"resolve": "done", "base-model": "done", "corpus": "failed", "notify": "done"},
    )
    message = told[1].pop()
    assert (message["state"], message["task"]) == ("failed", "corpus")
    parent = client.get_run(message["links"]["mlflow"].rpartition("/")[2])
    assert (parent.info.run_name, parent.info.status) == ("night-2", "FAILED")
