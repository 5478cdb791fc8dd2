"""The manifests: every overlay renders and is valid, and each thing that can go wrong with one is noticed.

Runs in an environment of its own, which holds kubectl and the schemas: make manifests-test.
"""

import copy
import os
import re

import pytest
import yaml

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from manifests.validation.__main__ import complaints
from manifests.validation.policies import image_complaint
from manifests.validation.references import surroundings
from manifests.validation.render import MANIFESTS, RenderError, find_kubectl, overlay_names, render

pytestmark = pytest.mark.timeout(600)

OVERLAYS = ["multi-user", "single-node-gpu", "standalone-kfp"]
COMPONENTS = sorted(path.parent.name for path in (MANIFESTS / "components").glob("*/kustomization.yaml"))
IMAGES = {
    "cpu": f"registry.example/team/searchr1-cpu@sha256:{'a' * 64}",
    "gpu": "registry.example:5000/searchr1-gpu:0.2.0",
    "mlflow": "registry.example/searchr1-mlflow:git-0123abc",
}


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory):
    return find_kubectl(tmp_path_factory.getbasetemp().parent / "kubectl")


@pytest.fixture(scope="module")
def rendered(kubectl):
    """Overlay -> its objects and what surrounds them."""
    folders = {name: MANIFESTS / "overlays" / name for name in overlay_names()}
    return {name: (render(kubectl, folder), surroundings(folder)) for name, folder in folders.items()}


@pytest.fixture
def multi_user(rendered):
    objects, around = rendered["multi-user"]
    return copy.deepcopy(objects), around


def find(objects, kind, name):
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


def retriever(objects):
    return find(objects, "Deployment", "searchr1-retriever")["spec"]["template"]["spec"]


def trainer(objects):
    runtime = find(objects, "TrainingRuntime", "searchr1-train")
    return runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def train_job():
    return yaml.safe_load((MANIFESTS / "samples" / "train-job.yaml").read_text())


def test_the_overlays_are_those_of_the_guide():
    assert overlay_names() == OVERLAYS


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_is_valid(rendered, name):
    objects, around = rendered[name]
    assert complaints(objects, around) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_has_what_a_run_needs(rendered, name):
    objects, _ = rendered[name]
    present = {(item["kind"], item["metadata"]["name"]) for item in objects}
    assert present >= {
        ("TrainingRuntime", "searchr1-train"),
        ("Role", "searchr1-train-launcher"),
        ("RoleBinding", "searchr1-train-launcher"),
        ("Deployment", "searchr1-retriever"),
        ("Service", "searchr1-retriever"),
        ("Deployment", "searchr1-mlflow"),
        ("StatefulSet", "searchr1-postgresql"),
        ("ConfigMap", "searchr1-config"),
        ("NetworkPolicy", "searchr1-default-deny"),
        ("PriorityClass", "searchr1-training"),
    }


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_fits_onto_an_overlay(kubectl, rendered, component, tmp_path):
    base = "standalone-kfp"
    objects, around = rendered[base]
    used = yaml.safe_load((MANIFESTS / "overlays" / base / "kustomization.yaml").read_text())["components"]
    wanted = {component} | ({"kueue-cluster-queue"} if component == "kueue" else set())
    added = [name for name in sorted(wanted) if f"../../components/{name}" not in used]
    lines = [f"resources: [{relative(MANIFESTS / 'overlays' / base, tmp_path)}]"]
    lines += ["components:", *(f"- {relative(MANIFESTS / 'components' / name, tmp_path)}" for name in added)]
    (tmp_path / "kustomization.yaml").write_text("\n".join(lines if added else lines[:1]))
    changed = render(kubectl, tmp_path)
    assert complaints(changed, around) == []
    assert (changed != objects) == bool(added)


def relative(path, start):
    return os.path.relpath(path, start.resolve())


@pytest.mark.parametrize("name", OVERLAYS)
def test_named_images_replace_every_placeholder(kubectl, name):
    folder = MANIFESTS / "overlays" / name
    objects = render(kubectl, folder, IMAGES)
    assert complaints(objects, surroundings(folder), deployable=True) == []
    used = set(re.findall(r"image: (\S+)", yaml.safe_dump(objects)))
    assert used >= set(IMAGES.values())
    assert not any("registry.invalid" in reference for reference in used)


def test_placeholder_images_are_not_deployable(multi_user):
    objects, around = multi_user
    found = complaints(objects, around, deployable=True)
    assert len(found) == 4  # retriever, trainer, and MLflow's two containers
    assert all("is a placeholder" in line for line in found)


@pytest.mark.parametrize("reference", ["searchr1-cpu", "registry.example:5000/searchr1-cpu"])
def test_an_image_must_name_a_tag_or_a_digest(kubectl, reference):
    with pytest.raises(RenderError, match="names no tag and no digest"):
        render(kubectl, MANIFESTS / "overlays" / "multi-user", {"cpu": reference})


def test_a_broken_kustomization_is_refused_with_its_reason(kubectl, tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]")
    with pytest.raises(RenderError, match=r"missing\.yaml"):
        render(kubectl, tmp_path)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        pytest.param(f"a.example/b@sha256:{'0' * 64}", "", id="digest"),
        pytest.param("a.example/b:1.2.3", "", id="version"),
        pytest.param("a.example:5000/b:17.7-bookworm", "", id="version behind a port"),
        pytest.param("a.example/b:git-0123abc", "", id="commit"),
        pytest.param("a.example/b:latest", "floats", id="latest"),
        pytest.param("a.example/b:main", "floats", id="branch"),
        pytest.param("a.example/b:17", "floats", id="major version"),
        pytest.param("a.example/b", "has no tag", id="untagged"),
        pytest.param("a.example:5000/b", "has no tag", id="untagged behind a port"),
        pytest.param("a.example/b@sha256:short", "floats", id="no real digest"),
        pytest.param("", "has no tag", id="empty"),
    ],
)
def test_only_fixed_images_pass(reference, said):
    found = image_complaint(reference)
    assert said in found
    assert bool(found) == bool(said)


def role_without(verb):
    def change(objects):
        find(objects, "Role", "searchr1-train-launcher")["rules"][0]["verbs"].remove(verb)

    return change


def remove(kind, name):
    return lambda objects: objects.remove(find(objects, kind, name))


def set_image(reference):
    return lambda objects: retriever(objects)["containers"][0].update(image=reference)


def retriever_security(**values):
    return lambda objects: retriever(objects)["containers"][0]["securityContext"].update(values)


def trainer_volume(volume):
    return lambda objects: trainer(objects)["volumes"].append(volume)


def trainer_env(entry):
    return lambda objects: trainer(objects)["containers"][0]["env"].append(entry)


def spec_of(kind, name, **values):
    return lambda objects: find(objects, kind, name)["spec"].update(values)


def add_job(change):
    def add(objects):
        job = train_job()
        change(job)
        objects.append(job)

    return add


BROKEN = [
    pytest.param(
        lambda o: trainer(o)["containers"][0]["envFrom"].append({"secretRef": {"name": "nobody"}}),
        "Secret nobody does not exist",
        id="missing secret",
    ),
    pytest.param(
        trainer_env({"name": "X", "valueFrom": {"secretKeyRef": {"name": "searchr1-s3", "key": "TOKEN"}}}),
        "Secret searchr1-s3 has no key TOKEN",
        id="missing key of a secret",
    ),
    pytest.param(remove("ConfigMap", "searchr1-config"), "ConfigMap searchr1-config does not exist", id="config map"),
    pytest.param(
        remove("ServiceAccount", "searchr1-trainer"), "ServiceAccount searchr1-trainer does not exist", id="account"
    ),
    pytest.param(
        remove("PriorityClass", "searchr1-training"), "PriorityClass searchr1-training does not exist", id="priority"
    ),
    pytest.param(
        trainer_volume({"name": "x", "persistentVolumeClaim": {"claimName": "nothing"}}),
        "PersistentVolumeClaim nothing does not exist",
        id="missing claim",
    ),
    pytest.param(
        lambda o: trainer(o)["containers"][0]["volumeMounts"].append({"name": "nothing", "mountPath": "/x"}),
        "volume nothing does not exist",
        id="mount of no volume",
    ),
    pytest.param(remove("Role", "searchr1-train-launcher"), "Role searchr1-train-launcher does not exist", id="role"),
    pytest.param(remove("RoleBinding", "searchr1-train-launcher"), "nobody is bound to it", id="binding"),
    pytest.param(
        lambda o: find(o, "RoleBinding", "searchr1-train-launcher")["subjects"][0].update(name="nobody"),
        "ServiceAccount nobody does not exist",
        id="binding of nobody",
    ),
    pytest.param(
        lambda o: find(o, "RoleBinding", "searchr1-train-launcher")["subjects"][0].update(namespace="elsewhere"),
        "its subject is in another namespace",
        id="binding into another namespace",
    ),
    pytest.param(
        spec_of("LocalQueue", "searchr1", clusterQueue="nothing"), "ClusterQueue nothing does not exist", id="queue"
    ),
    pytest.param(remove("Deployment", "searchr1-retriever"), "Deployment searchr1-retriever does not exist", id="hpa"),
    pytest.param(
        spec_of("Deployment", "searchr1-retriever", replicas=2), "undo the scaling", id="replicas beside an autoscaler"
    ),
    pytest.param(
        spec_of("Service", "searchr1-retriever", selector={"app": "typo"}), "its selector picks nothing", id="selector"
    ),
    pytest.param(
        lambda o: find(o, "Service", "searchr1-retriever")["spec"]["ports"][0].update(targetPort="grpc"),
        "no container opens port grpc",
        id="port of a service",
    ),
    pytest.param(
        lambda o: find(o, "ServiceMonitor", "searchr1-retriever")["spec"]["endpoints"][0].update(port="metrics"),
        "no Service offers port metrics",
        id="port of a monitor",
    ),
    pytest.param(
        lambda o: retriever(o)["containers"][0]["readinessProbe"]["httpGet"].update(port="web"),
        "readinessProbe asks port web",
        id="port of a probe",
    ),
    pytest.param(set_image("registry.example/searchr1-cpu:latest"), "image tag 'latest' floats", id="floating tag"),
    pytest.param(set_image("registry.example/searchr1-cpu"), "has no tag", id="untagged image"),
    pytest.param(retriever_security(privileged=True), "is privileged", id="privileged container"),
    pytest.param(retriever_security(runAsNonRoot=False), "runAsNonRoot is not true", id="root allowed"),
    pytest.param(retriever_security(runAsUser=0), "runs as root", id="root"),
    pytest.param(retriever_security(allowPrivilegeEscalation=True), "allows privilege escalation", id="escalation"),
    pytest.param(retriever_security(readOnlyRootFilesystem=False), "may write to its own image", id="writable image"),
    pytest.param(
        retriever_security(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), "keeps capabilities", id="capability"
    ),
    pytest.param(
        lambda o: trainer(o)["securityContext"].pop("seccompProfile"), "has no seccomp profile", id="no seccomp"
    ),
    pytest.param(lambda o: trainer(o).update(hostIPC=True), "hostIPC is not restricted", id="host namespace"),
    pytest.param(trainer_volume({"name": "x", "hostPath": {"path": "/"}}), "hostPath", id="host path"),
    pytest.param(trainer_volume({"name": "x", "emptyDir": {}}), "has no sizeLimit", id="unbounded folder"),
    pytest.param(
        lambda o: trainer(o).pop("automountServiceAccountToken"), "carries a token", id="token of the account"
    ),
    pytest.param(
        lambda o: retriever(o)["containers"][0]["resources"].pop("limits"), "limits no memory", id="no memory limit"
    ),
    pytest.param(lambda o: retriever(o)["containers"][0].pop("livenessProbe"), "no livenessProbe", id="no probe"),
    pytest.param(trainer_env({"name": "PET_NNODES", "value": "2"}), "PET_NNODES is the Trainer's", id="rendezvous"),
    pytest.param(role_without("create"), "lacks create on trainjobs.trainer.kubeflow.org", id="missing RBAC verb"),
    pytest.param(
        lambda o: find(o, "Role", "searchr1-train-launcher")["rules"][2]["verbs"].append("delete"),
        "does not need delete on events",
        id="RBAC verb too many",
    ),
    pytest.param(
        lambda o: find(o, "Role", "searchr1-train-launcher")["rules"][0].update(verbs=["*"]), "a rule with *", id="star"
    ),
    pytest.param(remove("NetworkPolicy", "searchr1-default-deny"), "no network policy closes it", id="open by default"),
    pytest.param(
        spec_of("NetworkPolicy", "searchr1-default-deny", podSelector={}), "pods that are not ours", id="closes others"
    ),
    pytest.param(
        lambda o: find(o, "NetworkPolicy", "searchr1-mlflow")["spec"]["ingress"][0].pop("from"),
        "an ingress rule for everybody",
        id="open ingress",
    ),
    pytest.param(
        remove("PodDisruptionBudget", "searchr1-retriever"), "without a disruption budget", id="no disruption budget"
    ),
    pytest.param(
        lambda o: o.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {}}),
        "secrets are no part of an overlay",
        id="committed secret",
    ),
    pytest.param(
        spec_of("Deployment", "searchr1-retriever", replica=2), "'replica' was unexpected", id="unknown field"
    ),
    pytest.param(
        spec_of("HorizontalPodAutoscaler", "searchr1-retriever", minReplicas="2"), "is not of type", id="wrong type"
    ),
    pytest.param(
        spec_of("LocalQueue", "searchr1", cohort="x"), "'cohort' was unexpected", id="unknown field of a queue"
    ),
    pytest.param(
        lambda o: o.append({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {}}),
        "has no schema",
        id="kind without a schema",
    ),
    pytest.param(
        lambda o: trainer(o)["containers"][0].update(imagePullPolice="Always"),
        "imagePullPolice",
        id="unknown field of a training pod",
    ),
    pytest.param(
        spec_of("TrainingRuntime", "searchr1-train", podTemplateOverrides=[]),
        "spec.podTemplateOverrides: unknown field",
        id="field of an older Trainer",
    ),
    pytest.param(
        add_job(lambda job: job["spec"]["trainer"].update(numGpus=8)),
        "spec.trainer.numGpus: unknown field",
        id="unknown field of a job",
    ),
    pytest.param(
        add_job(lambda job: job["spec"]["runtimeRef"].update(name="searchr1-ppo")),
        "TrainingRuntime searchr1-ppo does not exist",
        id="job without runtime",
    ),
    pytest.param(
        add_job(lambda job: job["metadata"]["labels"].update({"kueue.x-k8s.io/queue-name": "other"})),
        "LocalQueue other does not exist",
        id="job in no queue",
    ),
]


@pytest.mark.parametrize(("change", "said"), BROKEN)
def test_broken_overlay_is_noticed(multi_user, change, said):
    objects, around = multi_user
    change(objects)
    assert said in "\n".join(complaints(objects, around))


def test_sample_job_fits_the_overlay_with_a_queue(multi_user):
    objects, around = multi_user
    assert complaints([*objects, train_job()], around) == []


def test_queue_has_to_cover_what_training_pods_request(rendered):
    objects, around = copy.deepcopy(rendered["single-node-gpu"][0]), rendered["single-node-gpu"][1]
    group = find(objects, "ClusterQueue", "searchr1-gpu")["spec"]["resourceGroups"][0]
    group["coveredResources"].remove("nvidia.com/gpu")
    group["flavors"][0]["resources"].pop()
    assert "covers nvidia.com/gpu" in "\n".join(complaints(objects, around))


def test_overlay_of_the_guide_is_valid(kubectl, tmp_path):
    """The overlay for Amazon that the guide lays over ours, as its reader would write it."""
    guide = (MANIFESTS.parent / "docs" / "guides" / "kubernetes.md").read_text()
    text = re.search(r"overlays/eks/kustomization\.yaml <<EOF\n(.*?)\nEOF", guide, re.DOTALL)[1]
    for name, value in {"ACCOUNT": "123456789012", "AWS_REGION": "eu-west-1", "BUCKET": "team-bucket"}.items():
        text = text.replace(f"${name}", value)
    assert "$" not in text
    text = text.replace("../..", relative(MANIFESTS, tmp_path)).replace(
        "../standalone", relative(MANIFESTS / "overlays" / "standalone", tmp_path)
    )
    (tmp_path / "kustomization.yaml").write_text(text)
    objects = render(kubectl, tmp_path, IMAGES)
    assert complaints(objects, surroundings(MANIFESTS / "overlays" / "standalone-kfp"), deployable=True) == []
    config = find(objects, "ConfigMap", "searchr1-config")["data"]
    assert config["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://team-bucket/mlflow"
    assert "AWS_ENDPOINT_URL" not in config
    annotations = find(objects, "ServiceAccount", "searchr1-trainer")["metadata"]["annotations"]
    assert annotations == {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/searchr1"}
    assert "searchr1-s3" not in yaml.safe_dump(objects)
