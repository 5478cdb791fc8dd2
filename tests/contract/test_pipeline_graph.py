"""The compiled pipeline: equal bytes from equal code, the edges of the design, a form people can read."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components.resolve.config import ResolveConfig
from components.resolve.settings import FIELDS
from components.resolve.tasks import TASKS
from pipeline.compiled import compile_pipeline
from pipeline.parameters import PARAMETERS
from pipeline.resources import RESOURCES

COMPONENTS = Path(__file__).resolve().parents[2] / "components"
TRAINED_BASELINES = {"train-rl-no-search", "train-sft", "train-rejection-sampling"}
SECOND_TASKS = dict.fromkeys(TRAINED_BASELINES, "train")
GROUPS = {
    "data": {"corpus", "questions", "base-model"},
    "retrieval": {"index"},
    "training": {"train", *TRAINED_BASELINES},
    "release": {"evaluate", "register", "summary"},
}
EDGES = {
    "notify": set(),
    "resolve": set(),
    "corpus": {"resolve"},
    "index": {"resolve", "corpus"},
    "questions": {"resolve"},
    "base-model": {"resolve"},
    "train": {"resolve", "base-model", "index", "questions"},
    **{task: {"resolve", "base-model", "index", "questions"} for task in TRAINED_BASELINES},
    "evaluate": {"resolve", "base-model", "index", "questions", "train", *TRAINED_BASELINES},
    "register": {"resolve", "train", "evaluate", "index"},
    "summary": {
        "resolve",
        "corpus",
        "index",
        "questions",
        "base-model",
        "train",
        *TRAINED_BASELINES,
        "evaluate",
        "register",
    },
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "deep" / "pipeline.yaml"
    compile_pipeline(path)
    return path


@pytest.fixture(scope="module")
def spec(compiled):
    return next(yaml.safe_load_all(compiled.read_text()))


def test_another_process_compiles_the_same_bytes(compiled, tmp_path):
    again = tmp_path / "again.yaml"
    subprocess.run([sys.executable, "-m", "pipeline.cli", "compile", "--output", str(again)], check=True)
    assert again.read_bytes() == compiled.read_bytes()


def test_both_documents_parse_as_kubeflow_reads_them(compiled):
    pipeline, platform = yaml.safe_load_all(compiled.read_text())
    parsed = json_format.ParseDict(pipeline, PipelineSpec())
    assert parsed.pipeline_info.name == "search-r1"
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, KubernetesExecutorConfig())


@dataclass(frozen=True)
class Source:
    """Where an input comes from, followed through the groups to the task that makes it."""

    task: str
    output: str


@dataclass
class Graph:
    """The pipeline without its groups: task -> its specification and where each of its inputs comes from."""

    components: dict
    tasks: dict[str, dict] = field(default_factory=dict)
    inputs: dict[str, dict[str, Source]] = field(default_factory=dict)

    def walk(self, dag: dict, given: dict[str, Source]) -> None:
        for name, task in dag["tasks"].items():
            inputs = {
                key: source
                for kind in ("parameters", "artifacts")
                for key, spec in task.get("inputs", {}).get(kind, {}).items()
                if (source := self.source(spec, dag, given))
            }
            component = self.components[task["componentRef"]["name"]]
            if "dag" in component:
                self.walk(component["dag"], inputs)
            else:
                self.tasks[name], self.inputs[name] = task, inputs

    def source(self, spec: dict, dag: dict, given: dict[str, Source]) -> Source | None:
        for kind in ("Parameter", "Artifact"):
            if f"componentInput{kind}" in spec:
                return given.get(spec[f"componentInput{kind}"])
            if made := spec.get(f"taskOutput{kind}"):
                return self.output(dag, made["producerTask"], made[f"output{kind}Key"])
        return None

    def output(self, dag: dict, task: str, key: str) -> Source:
        component = self.components[dag["tasks"][task]["componentRef"]["name"]]
        if "dag" not in component:
            return Source(task, key)
        (made,) = component["dag"]["outputs"]["artifacts"][key]["artifactSelectors"]
        return self.output(component["dag"], made["producerSubtask"], made["outputArtifactKey"])


@pytest.fixture(scope="module")
def graph(spec):
    graph = Graph(spec["components"])
    graph.walk(spec["root"]["dag"], {})
    return graph


def test_edges_are_those_of_the_design(graph):
    assert {name: {source.task for source in inputs.values()} for name, inputs in graph.inputs.items()} == EDGES


def test_tasks_stand_in_the_groups_of_the_design(spec):
    groups = {group: set(spec["components"][f"comp-{group}"]["dag"]["tasks"]) for group in GROUPS}
    assert groups == GROUPS


def test_everything_but_the_first_step_waits_for_its_decision(spec):
    (name,) = [name for name in spec["components"] if name.startswith("comp-condition")]
    assert set(spec["components"][name]["dag"]["tasks"]) == set(GROUPS)
    run = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert set(run) == {"resolve", name.removeprefix("comp-")}
    condition = run[name.removeprefix("comp-")]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--resolve-Output'] == 'train'"


def test_the_exit_handler_runs_whatever_happened(spec):
    root = spec["root"]["dag"]["tasks"]
    assert set(root) == {"exit-handler-1", "notify"}
    assert root["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_every_group_takes_a_parameter(spec):
    """kfp.local 2.17 hands a nested pipeline without parameters none of its artifacts."""
    assert all(spec["components"][f"comp-{group}"]["inputDefinitions"]["parameters"] for group in GROUPS)


def test_every_task_and_group_has_a_title(spec, graph):
    nested = [part["dag"] for part in spec["components"].values() if "dag" in part]
    titles = {
        name: task["taskInfo"]["name"] for dag in (spec["root"]["dag"], *nested) for name, task in dag["tasks"].items()
    }
    assert {name: titles[name] for name in graph.tasks} == {name: given.title for name, given in RESOURCES.items()}
    assert [name for name, title in titles.items() if title == name] == []


def test_nobody_reads_an_artifact_of_the_first_step(graph):
    """Its cache keys would be those of a step that is never cached."""
    made = {source.output for inputs in graph.inputs.values() for source in inputs.values() if source.task == "resolve"}
    assert made == set(TASKS)


def test_every_step_leaves_a_card_and_metrics(spec, graph):
    lacking = {}
    for name, task in graph.tasks.items():
        artifacts = spec["components"][task["componentRef"]["name"]]["outputDefinitions"]["artifacts"]
        kinds = {given["artifactType"]["schemaTitle"] for given in artifacts.values()}
        wanted = {"system.Markdown", "system.Metrics"}
        wanted |= {"system.HTML"} if SECOND_TASKS.get(name, name) in ("train", "evaluate") else set()
        lacking[name] = wanted - kinds
    assert {name: kinds for name, kinds in lacking.items() if kinds} == {}


def test_every_input_named_after_a_manifest_comes_from_the_task_that_makes_it(graph):
    made_by = {
        "checkpoint": "train",
        "rl_no_search_checkpoint": "train-rl-no-search",
        "sft_checkpoint": "train-sft",
        "rejection_sampling_checkpoint": "train-rejection-sampling",
        "evaluation": "evaluate",
        "registration": "register",
        "base_model": "base-model",
    }
    wrong = [
        (task, name, source.task)
        for task, inputs in graph.inputs.items()
        for name, source in inputs.items()
        if name != "settings" and source != Source(made_by.get(name, name), "manifest")
    ]
    assert wrong == []


def test_tasks_are_folders_and_folders_are_tasks(graph):
    steps = {SECOND_TASKS.get(task, task).replace("-", "_") for task in graph.tasks}
    assert steps == {path.parent.name for path in COMPONENTS.glob("*/component.py")}


def test_every_task_gets_its_own_settings(graph):
    given = {task: inputs["settings"].output for task, inputs in graph.inputs.items() if "settings" in inputs}
    assert given == {task: task.replace("-", "_") for task in set(EDGES) - {"resolve", "notify"}}


def test_resolve_outputs_are_the_decision_and_the_tasks_in_order():
    from components.resolve.component import resolve

    parameters = [name for name, made in resolve.component_spec.outputs.items() if made.type == "String"]
    assert parameters == ["Output", *TASKS]
    assert set(TASKS) == {task.replace("-", "_") for task in EDGES} - {"resolve", "notify"}


def test_only_steps_that_resolve_or_act_are_uncached(graph):
    uncached = {name for name, task in graph.tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"resolve", "register", "summary", "notify"}
    assert set(RESOURCES) == set(graph.tasks)


def test_only_work_that_infrastructure_can_break_is_tried_again(graph):
    retries = {name: task.get("retryPolicy", {}).get("maxRetryCount", 0) for name, task in graph.tasks.items()}
    assert {name for name, count in retries.items() if not count} == {"resolve", "notify"}
    assert set(retries.values()) == {0, 2}


def test_what_is_tried_again_waits_longer_every_time(graph):
    policies = [task["retryPolicy"] for task in graph.tasks.values() if "retryPolicy" in task]
    assert policies
    assert {(policy["backoffDuration"], policy["backoffFactor"]) for policy in policies} == {("30s", 2.0)}


def test_every_task_knows_its_name_and_how_often_it_is_tried_again(spec, graph):
    for name, task in graph.tasks.items():
        executor = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        environment = spec["deploymentSpec"]["executors"][executor]["container"]["env"]
        told = {entry["name"]: entry["value"] for entry in environment}
        assert told == {
            "SEARCHR1_TASK": name,
            "SEARCHR1_RETRIES": str(task.get("retryPolicy", {}).get("maxRetryCount", 0)),
        }


def test_no_step_installs_anything_when_it_runs(spec):
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip" not in " ".join(executor["container"]["command"])


def test_every_field_of_the_form_reaches_the_first_step_under_its_own_name(spec):
    inside = {parameter.short_name: f"pipelinechannel--{parameter.name}" for parameter in PARAMETERS}
    resolve = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["resolve"]["inputs"]["parameters"]
    assert {name: given.get("componentInputParameter") for name, given in resolve.items()} == inside
    root = spec["root"]["dag"]["tasks"]
    handed_on = root["exit-handler-1"]["inputs"]["parameters"]
    for parameter in PARAMETERS:
        assert handed_on[inside[parameter.short_name]] == {"componentInputParameter": parameter.name}
    assert root["notify"]["inputs"]["parameters"]["storage_root"] == {"componentInputParameter": "p07_storage_root"}


def test_form_is_short_ordered_and_explained(spec):
    form = spec["root"]["inputDefinitions"]["parameters"]
    assert sorted(form) == [parameter.name for parameter in PARAMETERS]
    assert len(form) <= 12
    assert form["p08_only_new_corpus"]["literals"] == ["no", "yes"]
    assert all(form[parameter.name]["description"] == parameter.help for parameter in PARAMETERS)
    assert form["p01_preset"]["literals"] == list(PARAMETERS[0].choices)
    assert "small-world" in form["p01_preset"]["literals"]


def test_form_and_resolve_step_know_the_same_bounds():
    fields = ResolveConfig.model_json_schema()["properties"]
    assert {parameter.short_name for parameter in PARAMETERS} == set(fields)
    assert {name: tuple(entry["enum"]) for name, entry in fields.items() if "enum" in entry} == {
        parameter.short_name: parameter.choices
        for parameter in PARAMETERS
        if parameter.short_name != "preset" and parameter.choices
    }
    for parameter in PARAMETERS:
        field = fields[parameter.short_name]
        assert parameter.default == field["default"]
        assert (parameter.minimum, parameter.maximum) == (field.get("minimum"), field.get("maximum"))


def test_form_fields_stand_for_settings_that_exist():
    for target in FIELDS.values():
        task, _, key = target.partition(".")
        assert key in TASKS[task].config_class.model_fields
