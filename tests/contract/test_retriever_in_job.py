"""The component that gives every training job a retriever of its own, laid over each overlay (make manifests-test)."""

import os

import pytest
import yaml

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from manifests.validation.__main__ import complaints
from manifests.validation.objects import pod_templates, selects
from manifests.validation.references import surroundings
from manifests.validation.render import MANIFESTS, find_kubectl, overlay_names, render

pytestmark = pytest.mark.timeout(600)
IMAGES = {name: f"registry.example/searchr1-{name}:git-0123abc" for name in ("cpu", "gpu", "mlflow")}


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory):
    return find_kubectl(tmp_path_factory.getbasetemp().parent / "kubectl")


@pytest.fixture
def laid_over(kubectl, tmp_path):
    """A function from an overlay and components to the rendered objects and what surrounds them."""

    def lay(overlay: str, *components: str):
        folder = tmp_path / overlay
        folder.mkdir()
        lines = [f"resources: [{os.path.relpath(MANIFESTS / 'overlays' / overlay, folder.resolve())}]", "components:"]
        lines += [f"- {os.path.relpath(MANIFESTS / 'components' / name, folder.resolve())}" for name in components]
        (folder / "kustomization.yaml").write_text("\n".join(lines))
        return render(kubectl, folder, IMAGES), surroundings(MANIFESTS / "overlays" / overlay)

    return lay


def find(objects, kind, name):
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


def jobs_of(objects):
    runtime = find(objects, "TrainingRuntime", "searchr1-train")["spec"]["template"]["spec"]
    return runtime, {job["name"]: job for job in runtime["replicatedJobs"]}


@pytest.mark.parametrize("overlay", overlay_names())
def test_every_overlay_can_have_it(laid_over, overlay):
    objects, around = laid_over(overlay, "retriever-in-job")
    assert complaints(objects, around, deployable=True) == []
    runtime, jobs = jobs_of(objects)
    assert list(jobs) == ["retriever", "node"]
    assert jobs["node"]["dependsOn"] == [{"name": "retriever", "status": "Ready"}]
    assert runtime["successPolicy"] == {"operator": "All", "targetReplicatedJobs": ["node"]}
    (container,) = jobs["retriever"]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGES["cpu"]


def test_the_components_before_it_still_reach_the_training_pods(laid_over):
    objects, around = laid_over("standalone-kfp", "gpu-nvidia", "istio", "aws-irsa", "retriever-in-job")
    assert complaints(objects, around, deployable=True) == []
    _, jobs = jobs_of(objects)
    node = jobs["node"]["template"]["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" in node["containers"][0]["resources"]["limits"] and len(node["tolerations"]) == 1
    assert "nvidia.com/gpu" not in str(jobs["retriever"])


def test_the_shared_service_sends_nobody_to_the_retriever_of_a_job(laid_over):
    objects, _ = laid_over("standalone-kfp", "retriever-in-job")
    template = next(t for t in pod_templates(objects) if t.where.endswith("job retriever"))
    for kind in ("Service", "PodDisruptionBudget", "Deployment"):
        selector = find(objects, kind, "searchr1-retriever")["spec"]["selector"]
        selector = selector if "matchLabels" in selector else {"matchLabels": selector}
        assert not selects(selector, template.labels)


def test_a_gang_would_wait_for_ever(laid_over):
    objects, around = laid_over("standalone-kfp", "gang-coscheduling", "retriever-in-job")
    assert "neither would ever start" in "\n".join(complaints(objects, around))


def test_what_is_waited_for_stands_first(laid_over):
    objects, around = laid_over("standalone-kfp", "retriever-in-job")
    jobs_of(objects)[0]["replicatedJobs"].reverse()
    assert "which does not stand before it" in "\n".join(complaints(objects, around))


def test_the_sample_job_fits(laid_over):
    objects, around = laid_over("standalone-kfp", "retriever-in-job")
    job = yaml.safe_load((MANIFESTS / "samples" / "train-job-with-retriever.yaml").read_text())
    assert complaints([*objects, job], around) == []
    patched = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][1]
    patched["template"]["spec"]["template"]["spec"]["containers"][0]["enw"] = []
    assert "enw" in "\n".join(complaints([*objects, job], around))
