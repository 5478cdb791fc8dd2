"""The whole DAG in containers: the images that were built, kfp's DockerRunner, an S3 server, the MLflow image.

kfp may report a failed container as a success (kubeflow/pipelines issue 13332), so nothing here trusts a status:
every assertion is about what the steps left in the bucket and in the registry.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import pytest
import yaml

from components.contracts.question import SEVEN_SETS
from components.summary.schema import Summary
from pipeline.compiled import compile_pipeline
from pipeline.local_worker import make_stop_at_failure

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "searchr1-test"
RUN_ID = "in-containers"
METHODS = {"search_r1", "base", "direct", "rag", "sft", "rl_no_search", "rejection_sampling"}
MAX_CODE_LAYER_BYTES = 20_000_000
READY_S = 180


@pytest.fixture(scope="session")
def images():
    """Image name -> reference, as images/build.sh left them."""
    written = ROOT / "build" / "images.env"
    assert written.exists(), "no images were built: make image-test"
    lines = [line.partition("=") for line in written.read_text().split()]
    return {name.removeprefix("IMAGE_").lower(): reference for name, _, reference in lines}


def docker(*arguments):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, said=""):
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer within {READY_S} s\n{said}")


@pytest.fixture(scope="module")
def bucket():
    """The environment that leads to an S3 server on the loopback interface with one empty bucket."""
    endpoint = f"http://127.0.0.1:{(port := free_port())}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(endpoint)
            client(environment).create_bucket(Bucket=BUCKET)
            yield environment
        finally:
            process.terminate()


def client(environment):
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


def read(environment, uri):
    name, _, key = uri.removeprefix("s3://").partition("/")
    return client(environment).get_object(Bucket=name, Key=key)["Body"].read()


@pytest.fixture(scope="module")
def tracking(images, bucket):
    """The address of an MLflow server from our image, and its container."""
    port = free_port()
    settings = [part for name, value in bucket.items() for part in ("--env", f"{name}={value}")]
    container = docker(
        "run", "--detach", "--network=host", "--read-only", "--tmpfs=/tmp", "--tmpfs=/home/mlflow:uid=10001", *settings,
        images["mlflow"], "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", "--serve-artifacts",
        f"--artifacts-destination=s3://{BUCKET}/mlflow", "--backend-store-uri=sqlite:////tmp/mlflow.db",
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/health", subprocess.getoutput(f"docker logs {container}"))
        yield f"http://127.0.0.1:{port}"
    finally:
        docker("rm", "--force", container)


@pytest.fixture(scope="module")
def run(images, bucket, tracking, tmp_path_factory):
    """A function that runs the compiled pipeline, every step in a container; it returns the exit handler's card."""
    from google.protobuf import json_format
    from kfp import components, local
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

    compiled = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(compiled, images["cpu"])
    declared, platform = yaml.safe_load_all(compiled.read_text())
    spec = json_format.ParseDict(declared, PipelineSpec())
    make_stop_at_failure(spec)
    # A pipeline loaded from YAML parses it anew whenever it is looked at: the text has to be changed.
    pipeline = components.load_component_from_text(yaml.safe_dump_all([json_format.MessageToDict(spec), platform]))

    def run_once(run_id, **parameters):
        # The containers run as a user that this machine does not know.
        outputs = tmp_path_factory.mktemp(run_id)
        outputs.chmod(0o777)
        environment = bucket | {
            "MLFLOW_TRACKING_URI": tracking,
            "SEARCHR1_RUN_ID": run_id,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        previous = os.umask(0)
        try:
            runner = local.DockerRunner(environment=environment, network_mode="host")
            local.init(runner, pipeline_root=str(outputs), enable_caching=False)
            with contextlib.suppress(RuntimeError):
                pipeline(p01_preset="small-world-quick", p07_storage_root=f"s3://{BUCKET}/runs", **parameters)
        finally:
            os.umask(previous)
        (card,) = outputs.glob("*/notify/card")
        return card.read_text()

    return run_once


@pytest.fixture(scope="module")
def told(run):
    """What the exit handler of the whole run said."""
    return run(RUN_ID)


@pytest.fixture(scope="module")
def ran(told, bucket):
    """The environment of the storage in which the whole run left its results."""
    return bucket


@pytest.fixture(scope="module")
def summary(ran):
    return Summary.from_json(read(ran, f"s3://{BUCKET}/runs/{RUN_ID}/summary.json"))


def left_by(environment, run_id):
    """Names of what a run left beside the content that runs share."""
    prefix = f"runs/{run_id}/"
    found = client(environment).list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {entry["Key"].removeprefix(prefix) for entry in found}


def test_summary_holds_every_method_on_every_set(summary):
    assert summary.run_id == RUN_ID
    assert set(summary.em) >= METHODS
    assert all(set(rows) == set(SEVEN_SETS) for rows in summary.em.values())
    assert summary.train.steps == 3


def test_untrained_baselines_that_need_no_luck_are_right(summary):
    """Retrieval works in the container: one search answers most one-hop questions."""
    assert summary.em["rag"]["nq"].em > 0.3


def test_steps_ran_the_code_of_the_image(images, summary):
    revision = docker(
        "inspect", "--format", '{{index .Config.Labels "org.opencontainers.image.revision"}}', images["cpu"]
    )
    assert {link.git_commit for link in summary.lineage.values()} == {revision}


def test_every_file_of_the_lineage_is_in_the_bucket(ran, summary):
    assert len(summary.lineage) >= 6
    for link in summary.lineage.values():
        manifest = json.loads(read(ran, f"{link.uri.rstrip('/')}/manifest.json"))
        assert manifest["digest"] == link.digest
        for file in manifest["files"]:
            assert len(read(ran, f"{link.uri.rstrip('/')}/{file['path']}")) == file["size"]


def test_registered_model_is_in_the_registry_of_the_image(ran, tracking, summary):
    from mlflow import MlflowClient

    version = MlflowClient(tracking).get_model_version(summary.registry.name, str(summary.registry.version))
    assert version.source.startswith(f"s3://{BUCKET}/runs/")


def test_training_reported_its_metrics_to_the_server(ran, tracking):
    from mlflow import MlflowClient

    server = MlflowClient(tracking)
    experiments = [experiment.experiment_id for experiment in server.search_experiments()]
    runs = server.search_runs(experiments, max_results=50)
    assert any("em/dev" in run.data.metrics for run in runs)


def test_exit_handler_tells_the_success(ran, told, summary):
    assert told.startswith("# Succeeded\n")
    assert f"{summary.registry.name} version {summary.registry.version} {summary.registry.decision}" in told
    assert not [name for name in left_by(ran, RUN_ID) if name.startswith("failures/")]


def test_a_run_for_new_corpora_only_ends_at_once(ran, run):
    """The condition of the graph holds in containers, and the registry behind it is asked from one."""
    told = run("nothing-new", p08_only_new_corpus="yes")
    assert told.startswith("# Nothing new\n")
    assert left_by(ran, "nothing-new") == {"resolved.json"}


def test_a_failing_step_leaves_its_own_words_in_the_bucket(ran, run):
    lines = b'{"id": "1", "contents": "fine"}\n{"id": "2"\n'
    client(ran).put_object(Bucket=BUCKET, Key="corpus.jsonl", Body=lines)
    run("failing", p02_corpus_uri=f"s3://{BUCKET}/corpus.jsonl")
    assert "summary.json" not in left_by(ran, "failing")
    record = json.loads(read(ran, f"s3://{BUCKET}/runs/failing/failures/corpus.json"))
    assert record["type"] == "CorpusError"
    assert "line 2" in record["message"]


@pytest.mark.parametrize("name", ["cpu", "mlflow"])
def test_image_runs_as_nobody_in_particular(images, name):
    assert docker("run", "--rm", images[name], "id", "-u") == "10001"


@pytest.mark.parametrize(("name", "package"), [("cpu", "pyserini"), ("mlflow", "mlflow")])
def test_image_lists_what_it_holds(images, name, package):
    path = docker("inspect", "--format", '{{index .Config.Labels "org.searchr1.sbom"}}', images[name])
    bill = json.loads(docker("run", "--rm", images[name], "cat", path))
    held = {component["name"]: component["version"] for component in bill["components"]}
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert held[package] == pinned[package]
    normalized = {key.lower().replace("_", "-").replace(".", "-"): value for key, value in pinned.items()}
    unlike = {key: value for key, value in held.items() if normalized.get(key, value) != value.partition("+")[0]}
    assert unlike == {}


def test_history_names_no_package_index(images):
    for image in images.values():
        assert "PIP_" not in docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)


def test_a_change_of_code_moves_little(images):
    """The layer with the code is small, and only labels and settings lie above it."""
    rows = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", images["cpu"])
    sizes = [int(size) for size, _, made_by in (row.partition("\t") for row in rows.splitlines()) if size != "0"]
    assert 0 < sizes[0] < MAX_CODE_LAYER_BYTES


def test_server_image_says_when_it_is_healthy(images):
    check = json.loads(docker("inspect", "--format", "{{json .Config.Healthcheck}}", images["mlflow"]))
    assert "/health" in " ".join(check["Test"])
