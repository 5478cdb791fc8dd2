"""The sample that retrains when a corpus arrives: its command is one of ours, its objects are valid."""

import pytest
import yaml

from manifests.validation.render import MANIFESTS

OBJECTS = list(yaml.safe_load_all((MANIFESTS / "samples" / "retrain-on-upload.yaml").read_text()))
EVENT_SOURCE, SENSOR, *CORE = OBJECTS
JOB = SENSOR["spec"]["triggers"][0]["template"]["k8s"]["source"]["resource"]
POD = JOB["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def test_the_command_is_understood_as_written():
    cli = pytest.importorskip("pipeline.cli", reason="needs the environment of the pipeline")
    *interpreter, command = CONTAINER["command"]
    assert interpreter == ["python", "-m", "pipeline.cli"]
    given = cli._parser().parse_args([command, *CONTAINER["args"]])
    fields, _ = cli._checked(given, given.storage_root)
    assert given.only_new_corpus
    assert fields["corpus_uri"] == "s3://corpora/wiki"


def test_the_token_is_where_the_client_looks():
    path = next(one["value"] for one in CONTAINER["env"] if one["name"] == "KF_PIPELINES_SA_TOKEN_PATH")
    token = POD["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]
    assert path == f"{CONTAINER['volumeMounts'][0]['mountPath']}/{token['path']}"
    assert token["audience"] == "pipelines.kubeflow.org"


def test_events_find_their_way():
    dependency = SENSOR["spec"]["dependencies"][0]
    assert dependency["eventSourceName"] == EVENT_SOURCE["metadata"]["name"]
    assert dependency["eventName"] in EVENT_SOURCE["spec"]["sqs"]
    account = SENSOR["spec"]["template"]["serviceAccountName"]
    assert account in [one["metadata"]["name"] for one in CORE if one["kind"] == "ServiceAccount"]


def test_kubernetes_knows_the_objects():
    pytest.importorskip("kubernetes_validate", reason="schemas are in the environment of make manifests-test")
    from manifests.validation.schemas import schema_complaints

    assert schema_complaints([*CORE, JOB]) == []
