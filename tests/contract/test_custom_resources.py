"""The definitions that the tests of a cluster give to an API server: whole, structural, and about our objects.

No API server is needed here: what one demands of a definition is checked by hand, what it would refuse by jsonschema.
"""

import contextlib
import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

pytest.importorskip("kubeflow_trainer_api", reason="not in this environment: make setup")

from tests.cluster.conftest import NEITHER, checked, why_not
from tests.cluster.custom_resources import definitions, structural
from tests.cluster.kubernetes import account, moved

MANIFESTS = Path(__file__).parents[2] / "manifests"
FORBIDDEN = {"$ref", "$defs", "anyOf", "oneOf", "const", "default", "title", "definitions"}
INT_OR_STRING = {"type": ["integer", "string"]}


@pytest.fixture(scope="module")
def by_kind() -> dict[str, dict]:
    return {definition["spec"]["names"]["kind"]: definition for definition in definitions()}


def schema_of(definition: dict) -> dict:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def parts(schema: dict):
    yield schema
    for part in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            yield from parts(part)


def closed(schema: dict) -> dict:
    """Return the schema as jsonschema understands it, unknown fields refused as strict decoding refuses them."""
    made = copy.deepcopy(schema)
    for part in parts(made):
        if part.pop("x-kubernetes-int-or-string", False):
            part |= INT_OR_STRING
        if "properties" in part and part is not made["properties"].get("metadata"):
            part["additionalProperties"] = part.get("x-kubernetes-preserve-unknown-fields", False)
    return made


def written(*places: str) -> list[dict]:
    found = [yaml.safe_load_all((MANIFESTS / place).read_text()) for place in places]
    return [item for items in found for item in items]


def test_every_kind_that_is_not_kubernetes_own_is_defined(by_kind):
    files = [path for path in MANIFESTS.glob("[bc]*/**/*.yaml") if "patch" not in path.name]
    used = {item["kind"] for path in files for item in written(str(path)) if isinstance(item, dict)}
    own = {"TrainJob", "TrainingRuntime", "LocalQueue", "ClusterQueue", "ResourceFlavor", "ServiceMonitor"}
    assert by_kind.keys() == own | {"Workload"}
    assert used & own == own - {"TrainJob"}


def test_definitions_are_structural(by_kind):
    for kind, definition in by_kind.items():
        for part in parts(schema_of(definition)):
            assert not FORBIDDEN & part.keys(), (kind, part.keys())
            assert isinstance(part.get("type", ""), str), kind
            assert part.keys() & {"type", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"}, kind
            assert not {"properties", "additionalProperties"} <= part.keys(), kind
        assert definition["metadata"]["name"] == f"{kind.lower()}s.{definition['spec']['group']}"


@pytest.mark.parametrize(
    "place",
    [
        "samples/train-job.yaml",
        "base/training-runtime.yaml",
        "components/kueue/local-queue.yaml",
        "components/kueue-cluster-queue/cluster-queue.yaml",
        "components/servicemonitor/service-monitor.yaml",
    ],
)
def test_our_objects_fit_them(place, by_kind):
    for item in written(place):
        jsonschema.validate(item, closed(schema_of(by_kind[item["kind"]])))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(("spec", "trainer", "numGpus"), 8, id="unknown field"),
        pytest.param(("spec", "trainer", "numNodes"), "2", id="a number as text"),
        pytest.param(("spec", "podTemplateOverrides"), [], id="field of an older Trainer"),
        pytest.param(("spec", "trainer", "env"), [{"value": "x"}], id="a variable without a name"),
    ],
)
def test_what_does_not_fit_is_refused(path, value, by_kind):
    (item,) = written("samples/train-job.yaml")
    place = item
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(item, closed(schema_of(by_kind["TrainJob"])))


def test_the_trainers_rules_are_kept(by_kind):
    spec = schema_of(by_kind["TrainJob"])["properties"]["spec"]["properties"]
    assert spec["runtimeRef"]["x-kubernetes-validations"][0]["rule"] == "self == oldSelf"
    number = spec["trainer"]["properties"]["numProcPerNode"]
    assert number["x-kubernetes-validations"][0]["rule"] == "self >= 1"
    assert number["type"] == "integer"


def test_a_choice_that_no_structural_schema_has_lets_everything_through():
    choice = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
    assert structural(choice, {}) == {"x-kubernetes-preserve-unknown-fields": True}
    assert structural({"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}, {"A": {"type": "string"}}) == {
        "type": "string"
    }


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        pytest.param({}, NEITHER, id="nothing set"),
        pytest.param({"KUBEBUILDER_ASSETS": "/nowhere"}, "holds no etcd and no kube-apiserver", id="empty folder"),
        pytest.param({"KUBECONFIG": "/home/me/.kube/config"}, "", id="a cluster"),
    ],
)
def test_what_lacks_to_test_a_cluster_is_said(environment, said, monkeypatch):
    monkeypatch.setattr("tests.cluster.conftest.find_kubectl", lambda: Path("/usr/bin/kubectl"))
    assert said in why_not(environment)
    assert bool(said) == bool(why_not(environment))
    monkeypatch.setattr("tests.cluster.conftest.find_kubectl", lambda: None)
    assert why_not(environment) == "no kubectl on this machine"


def test_objects_move_to_the_namespace_of_the_tests_with_their_subjects():
    objects = [
        {"kind": "RoleBinding", "metadata": {"namespace": "a"}, "subjects": [{"name": "runner", "namespace": "a"}]},
        {"kind": "PriorityClass", "metadata": {"name": "high"}},
    ]
    found = moved(objects, "mine")
    assert found[0]["metadata"]["namespace"] == "mine"
    assert account(found) == "system:serviceaccount:mine:runner"
    assert found[1] == objects[1]
    assert objects[0]["metadata"]["namespace"] == "a"


@pytest.mark.parametrize(("minor", "refused"), [(20, True), (33, False), (36, False)])
def test_an_older_cluster_is_refused(minor, refused):
    class Server:
        def minor_version(self) -> int:
            return minor

    with pytest.raises(pytest.fail.Exception, match=r"1\.20; .* 1\.33") if refused else contextlib.nullcontext():
        checked(Server())
