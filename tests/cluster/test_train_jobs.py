"""TrainJobs against the definitions of the server: ours are accepted, what the Trainer's rules forbid is not."""

import copy
import uuid

import pytest
import yaml

from manifests.validation.render import MANIFESTS
from tests.cluster.kubernetes import KubernetesObject, account

pytestmark = pytest.mark.cluster
SAMPLE = yaml.safe_load((MANIFESTS / "samples" / "train-job.yaml").read_text())
TRAINER = ("spec", "trainer")


def job(namespace: str, path: tuple[str, ...] = (), value: object = None) -> KubernetesObject:
    """Return the sample under a name of its own, waiting for nobody, with a value set at a path."""
    made = copy.deepcopy(SAMPLE)
    made["metadata"] |= {"namespace": namespace, "name": f"sr1-{uuid.uuid4().hex[:10]}"}
    made["spec"]["suspend"] = True
    place = made
    for name in path[:-1]:
        place = place.setdefault(name, {})
    if path:
        place[path[-1]] = value
    return made


def create(cluster, objects, body: KubernetesObject):
    """Create a job as the account of a run would."""
    return cluster.kubectl("create", "--validate=strict", "-f", "-", "--as", account(objects), given=body)


def test_sample_job_is_accepted_and_suspended(cluster, launching, namespace):
    body = job(namespace)
    created = create(cluster, launching, body)
    assert created.returncode == 0, created.stderr
    found = cluster.get("trainjob", body["metadata"]["name"], namespace)
    assert found["spec"]["suspend"] is True
    assert found["spec"]["trainer"]["numNodes"] == 2
    again = create(cluster, launching, body)
    assert "AlreadyExists" in again.stderr


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param((*TRAINER, "numProcPerNode"), 0, "numProcPerNode", id="no process on a node"),
        pytest.param((*TRAINER, "numProcPerNode"), "8", "numProcPerNode", id="a number as text"),
        pytest.param((*TRAINER, "numGpus"), 8, "numGpus", id="unknown field"),
        pytest.param(("spec", "podTemplateOverrides"), [], "podTemplateOverrides", id="field of an older Trainer"),
    ],
)
def test_what_the_trainer_forbids_is_refused(path, value, said, cluster, launching, namespace):
    refused = create(cluster, launching, job(namespace, path, value))
    assert refused.returncode != 0
    assert said in refused.stderr


def test_runtime_of_a_job_cannot_be_changed(cluster, launching, namespace):
    body = job(namespace)
    assert create(cluster, launching, body).returncode == 0
    patch = '{"spec": {"runtimeRef": {"name": "another"}}}'
    name = body["metadata"]["name"]
    refused = cluster.kubectl(
        "patch", "trainjob", name, "-n", namespace, "--type=merge", "-p", patch, "--as", account(launching)
    )
    assert refused.returncode != 0
    assert "immutable" in refused.stderr


def test_a_job_that_sets_the_rendezvous_is_refused_by_the_trainer(cluster, launching, namespace):
    if cluster.is_alone:
        pytest.skip("the Trainer's webhook decides this, and there is none behind an API server alone")
    entry = [{"name": "PET_NNODES", "value": "2"}]
    refused = create(cluster, launching, job(namespace, (*TRAINER, "env"), entry))
    assert refused.returncode != 0
    assert "PET_NNODES" in refused.stderr


def test_pod_of_the_runtime_is_restricted(cluster, launching, namespace):
    """A namespace that admits restricted pods only admits those of a training."""
    runtime = next(item for item in launching if item["kind"] == "TrainingRuntime")
    template = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": copy.deepcopy(template["spec"])}
    pod["metadata"] = {"name": "node", "namespace": namespace, "labels": template["metadata"]["labels"]}
    # Its class lies in the overlay beside it, which a dry run never makes.
    pod["spec"].pop("priorityClassName", None)
    accepted = cluster.apply([pod], "--dry-run=server")
    assert accepted.returncode == 0, accepted.stderr
    pod["spec"]["containers"][0]["securityContext"]["runAsUser"] = 0
    assert "violates PodSecurity" in cluster.apply([pod], "--dry-run=server").stderr
