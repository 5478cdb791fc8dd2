"""What the launcher submits is what Kubeflow Trainer 2.3 knows: no field it would drop or refuse.

Runs in the environment of the manifests, which has the Trainer's models: make manifests-test.
"""

import copy

import pytest

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from components.train.config import TrainConfig
from components.train.trainjob import train_job
from manifests.validation.schemas import trainer_complaints

POD = {"SEARCHR1_RUN_ID": "run", "SEARCHR1_POD_NAME": "pod", "SEARCHR1_POD_UID": "0f5c1a4e-6c1f-4f0e-9f4a-2f8a6f1f9d10"}
JOBS = [
    pytest.param({"parallel": {"num_nodes": 2, "gpus_per_node": 8}, "launch": {"queue": "gpu"}}, POD, id="queue"),
    pytest.param({"parallel": {"num_nodes": 2, "cpu_ranks": 2}}, POD, id="CPUs"),
    pytest.param({"launch": {"retriever_in_job": True}}, POD, id="retriever"),
    pytest.param({"parallel": {"gpus_per_node": 1}}, {}, id="outside a cluster"),
]


def job(values, environment):
    config = TrainConfig.parse(values)
    return train_job(config, "sr1-0123456789", "s3://bucket/folder", "s3://bucket/index/manifest.json", environment)


@pytest.mark.parametrize(("values", "environment"), JOBS)
def test_the_job_is_one_the_trainer_knows(values, environment):
    assert trainer_complaints(job(values, environment)) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda spec: spec.update(podSpecOverrides=[]), id="a field of Trainer 2.0"),
        pytest.param(lambda spec: spec["trainer"].update(numProcPerNode="auto"), id="a wrong type"),
    ],
)
def test_a_job_it_does_not_know_is_noticed(change):
    body = copy.deepcopy(job({}, {}))
    change(body["spec"])
    assert trainer_complaints(body) != []
