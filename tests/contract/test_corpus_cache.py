"""The real first two steps under the real local cache: a corpus that changed under the same address is read again."""

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
from components.corpus.component import corpus
from components.resolve.component import resolve
from pipeline.local_worker import run_pipeline

@dsl.pipeline(name="two")
def two(uri: str, storage_root: str):
    settings = resolve(
        preset="small-world-quick", corpus_uri=uri, questions_uri="", base_model="", model_name="", seed=1,
        storage_root=storage_root, only_new_corpus="no", overrides="",
    ).set_caching_options(False)
    corpus(settings=settings.outputs["corpus"])

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run_pipeline(two, json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_corpus_changed_in_place_is_read_again(tmp_path):
    source = tmp_path / "corpus.jsonl"

    def states():
        request = {
            "parameters": {"uri": str(source), "storage_root": f"file://{tmp_path}/runs"},
            "pipeline_root": str(tmp_path / "root"),
            "cache_root": str(tmp_path / "cache"),
            "cached": True,
        }
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", SCRIPT, json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        view = LogView()
        for line in done.stdout.splitlines():
            view.feed(line)
        return {record.task: record.state for record in view.records}

    source.write_text('{"id": "1", "contents": "one"}\n')
    assert states() == {"resolve": "done", "corpus": "done"}
    os.utime(source, (1, 1))
    assert states() == {"resolve": "done", "corpus": "cached"}
    source.write_text('{"id": "1", "contents": "eno"}\n')
    os.utime(source, (1, 1))
    assert states() == {"resolve": "done", "corpus": "done"}
