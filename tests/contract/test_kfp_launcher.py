"""Where Kubeflow Pipelines keeps its own artifacts: in the same bucket, and with no key where there are roles."""

import copy
import os

import pytest
import yaml

pytest.importorskip("kubernetes_validate", reason="the manifests are tested by make manifests-test")

from manifests.validation.__main__ import complaints
from manifests.validation.launcher import launcher_complaints
from manifests.validation.references import surroundings
from manifests.validation.render import MANIFESTS, find_kubectl, render

OVERLAY = MANIFESTS / "overlays" / "standalone-kfp"


@pytest.fixture(scope="module")
def laid_over(tmp_path_factory):
    """Return the objects of an overlay with more components."""
    kubectl = find_kubectl(tmp_path_factory.getbasetemp().parent / "kubectl")

    def objects(*components):
        folder = tmp_path_factory.mktemp("overlay").resolve()
        lines = [f"resources: [{os.path.relpath(OVERLAY, folder)}]", "components:"]
        lines += [f"- {os.path.relpath(MANIFESTS / 'components' / name, folder)}" for name in components]
        (folder / "kustomization.yaml").write_text("\n".join(lines))
        return render(kubectl, folder)

    return objects


def config(objects, name="kfp-launcher"):
    return next(item["data"] for item in objects if (item["kind"], item["metadata"]["name"]) == ("ConfigMap", name))


@pytest.fixture(scope="module")
def keyed(laid_over):
    return laid_over("kfp-artifacts")


def test_it_is_the_store_of_the_steps(keyed):
    assert complaints(keyed, surroundings(OVERLAY)) == []
    place = yaml.safe_load(config(keyed)["providers"])["s3"]["default"]
    steps = config(keyed, "searchr1-config")
    assert (place["endpoint"], place["region"]) == (steps["AWS_ENDPOINT_URL"], steps["AWS_DEFAULT_REGION"])
    assert place["disableSSL"] == place["endpoint"].startswith("http://")


def test_with_roles_it_names_no_secret(laid_over):
    data = config(laid_over("kfp-artifacts", "aws-irsa"))
    assert yaml.safe_load(data["providers"])["s3"]["default"]["credentials"] == {"fromEnv": True}
    assert "searchr1-s3" not in str(data)


def place(**changes):
    def change(data):
        providers = yaml.safe_load(data["providers"])
        providers["s3"]["default"] |= changes
        data["providers"] = yaml.safe_dump(providers)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda data: data.update(defaultPipelineRoot="minio://b/x"), "no s3:// address", id="root"),
        pytest.param(lambda data: data.update(providers=""), "no default of s3", id="no provider"),
        pytest.param(lambda data: data.update(providers="minio: {}"), "has minio, which is unknown", id="provider"),
        pytest.param(place(forcePathstyle=True), "forcePathstyle, which is unknown", id="misspelt"),
        pytest.param(place(credentials={"fromEnv": False}), "needs a secretRef", id="no secret"),
        pytest.param(
            place(credentials={"secretRef": {"secretName": "x", "accessKeyKey": "a", "secretKeyKey": "b"}}),
            "Secret x with these keys does not exist",
            id="unknown secret",
        ),
    ],
)
def test_what_the_launcher_would_ignore_is_noticed(keyed, change, said):
    objects = copy.deepcopy(keyed)
    change(config(objects))
    assert said in "\n".join(launcher_complaints(objects, surroundings(OVERLAY)))
