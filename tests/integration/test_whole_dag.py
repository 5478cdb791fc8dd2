"""The whole DAG with real parts on a reduced budget: what a run leaves behind, and what a second one repeats."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.contracts.question import SEVEN_SETS
from components.summary.schema import Summary
from tests import servers

pytestmark = [pytest.mark.dag, pytest.mark.timeout(900)]

METHODS = {"search_r1", "base", "direct", "rag", "sft", "rl_no_search", "rejection_sampling"}
TASKS = ["resolve", "corpus", "index", "questions", "base-model", "train", "train-rl-no-search"]
TASKS += ["train-sft", "train-rejection-sampling"]
TASKS += ["evaluate", "register", "summary", "notify"]
ALWAYS_RUN = {"resolve", "register", "summary", "notify"}
MAX_CACHED_RUN_S = 30


def command(runs, *arguments):
    return [
        sys.executable,
        "-m",
        "pipeline.cli",
        "run",
        "--preset",
        "small-world-quick",
        "--runs-dir",
        runs,
        *arguments,
    ]


def run(runs, *arguments, **environment):
    return subprocess.run(command(runs, *arguments), capture_output=True, text=True, env={**os.environ, **environment})


def ended(output, word):
    """Tasks whose line says `word`."""
    lines = (line.partition("|") for line in output.splitlines())
    return {task.strip() for task, _, said in lines if said.strip().startswith(word)}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of runs and the output of a first run, interrupted once in the middle of the training."""
    runs = str(tmp_path_factory.mktemp("dag") / "runs")
    kill_in_training(runs)
    done = run(runs)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(runs), done.stdout


def kill_in_training(runs):
    """SIGKILL the command as soon as PPO has saved a step; the processes below it end with it."""
    with subprocess.Popen(command(runs), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        saved = Path(runs) / "work" / "train"
        # The supervised baselines may be over before a kill reaches them; they have no critic.
        while not any([*done.parent.glob("critic-*.safetensors")] for done in saved.glob("*/step_000001/_COMPLETE")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)


def summary_of(runs):
    return Summary.from_json((runs / "latest" / "summary.json").read_bytes())


def test_training_resumes_after_a_kill_and_finished_steps_are_not_repeated(first):
    _, output = first
    assert re.search(r"resuming from step [12]\n", output)
    assert {"corpus", "index", "questions", "base-model"} <= ended(output, "cached")


def test_summary_holds_every_method_on_every_set(first):
    summary = summary_of(first[0])
    assert set(summary.em) >= METHODS
    assert all(set(rows) == set(SEVEN_SETS) for rows in summary.em.values())
    assert summary.preset == "small-world-quick"
    assert summary.train.algorithm == "ppo"
    assert summary.train.steps == 3
    assert set(summary.timings_s) == {task.replace("-", "_") for task in TASKS} - {"resolve", "summary", "notify"}


def test_lineage_is_a_chain_of_digests(first):
    lineage = summary_of(first[0]).lineage
    assert lineage["index"].inputs["corpus"] == lineage["corpus"].digest
    assert lineage["checkpoint"].inputs["index"] == lineage["index"].digest
    assert lineage["evaluation"].inputs["checkpoint"] == lineage["checkpoint"].digest
    assert lineage["registration"].inputs["evaluation"] == lineage["evaluation"].digest


def test_report_needs_nothing_else(first):
    page = (first[0] / "latest" / "report.html").read_text()
    assert [name for name in SEVEN_SETS if name not in page] == []
    assert re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", page) == []


def test_second_run_is_cached_says_so_and_registers_nothing(first):
    runs, _ = first
    before = summary_of(runs)
    started_s = time.monotonic()
    done = run(str(runs))
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started_s <= MAX_CACHED_RUN_S
    assert ended(done.stdout, "cached") == set(TASKS) - ALWAYS_RUN
    after = summary_of(runs)
    assert after.run_id != before.run_id
    assert after.registry.version == before.registry.version
    assert after.em == before.em


def test_registered_model_answers(first):
    runs, _ = first
    name = summary_of(runs).registry.name
    version = summary_of(runs).registry.version
    script = (
        "import json, mlflow, sys; "
        f"model = mlflow.pyfunc.load_model('models:/{name}/{version}'); "
        "print(json.dumps(list(model.predict(['Who wrote it?']).iloc[0].index)))"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{runs}/mlflow.db"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert {"answer", "searches"} <= set(json.loads(done.stdout.splitlines()[-1]))


def test_a_run_for_new_corpora_only_ends_at_once_and_says_why(first):
    runs, _ = first
    before = (runs / "latest").resolve()
    done = run(str(runs), "--only-new-corpus")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ended(done.stdout, "done") == {"resolve", "notify"}
    assert re.search(r"\nNothing new: search-r1 version 1 was trained on corpus [0-9a-f]{16} ", done.stdout)
    run_id = re.search(r"^Run (\S+) in ", done.stdout)[1]
    assert {path.name for path in (runs / run_id).iterdir()} == {"resolved.json"}
    assert (runs / "latest").resolve() == before


@pytest.fixture
def webhook():
    """The address of a webhook, which holds a secret, and what it was told."""
    with servers.webhook() as (address, told):
        yield f"{address}S3CRET", told


def test_a_failing_step_ends_the_run_with_its_own_words_and_tells_the_webhook(first, tmp_path, webhook):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "fine"}\n{"id": "2"\n')
    url, told = webhook
    done = run(str(first[0]), "--corpus-uri", str(corpus), SEARCHR1_WEBHOOK_URL=url, NO_PROXY="127.0.0.1")
    assert done.returncode == 2
    assert "corpus: CorpusError" in done.stderr
    assert "line 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert ended(done.stdout, "started") == {"resolve", "corpus", "notify"}
    (message,) = told
    assert (message["state"], message["task"], message["failed_tasks"]) == ("failed", "corpus", ["corpus"])
    assert "line 2" in message["reason"]
    assert message["links"]["mlflow"]
    assert "S3CRET" not in done.stdout + "".join(path.read_text() for path in first[0].glob("kfp/*/log.txt"))
