"""The compiled pipeline: equal bytes from equal code, the edges of the design, a form people can read."""

import subprocess
import sys
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
EDGES = {
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


def test_edges_are_those_of_the_design(spec):
    tasks = spec["root"]["dag"]["tasks"]
    assert {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()} == EDGES


def test_every_input_named_after_a_manifest_comes_from_the_task_that_makes_it(spec):
    made_by = {
        "checkpoint": "train",
        "rl_no_search_checkpoint": "train-rl-no-search",
        "sft_checkpoint": "train-sft",
        "rejection_sampling_checkpoint": "train-rejection-sampling",
        "evaluation": "evaluate",
        "registration": "register",
        "base_model": "base-model",
    }
    wrong = []
    for task, given in spec["root"]["dag"]["tasks"].items():
        for name, source in given["inputs"].get("artifacts", {}).items():
            producer = source["taskOutputArtifact"]["producerTask"]
            if producer != made_by.get(name, name):
                wrong.append((task, name, producer))
    assert wrong == []


def test_tasks_are_folders_and_folders_are_tasks(spec):
    steps = {SECOND_TASKS.get(task, task).replace("-", "_") for task in spec["root"]["dag"]["tasks"]}
    assert steps == {path.parent.name for path in COMPONENTS.glob("*/component.py")}


def test_every_task_gets_its_own_settings(spec):
    tasks = dict(spec["root"]["dag"]["tasks"])
    del tasks["resolve"]
    keys = {
        task: given["inputs"]["parameters"]["settings"]["taskOutputParameter"]["outputParameterKey"]
        for task, given in tasks.items()
    }
    assert keys == {task: task.replace("-", "_") for task in tasks}


def test_resolve_outputs_are_the_tasks_in_order(spec):
    from components.resolve.component import resolve

    assert list(resolve.component_spec.outputs) == list(TASKS)
    assert set(TASKS) == {task.replace("-", "_") for task in EDGES} - {"resolve"}


def test_only_steps_that_resolve_or_act_are_uncached(spec):
    tasks = spec["root"]["dag"]["tasks"]
    uncached = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"resolve", "register", "summary"}
    assert set(RESOURCES) == set(tasks)


def test_no_step_installs_anything_when_it_runs(spec):
    for executor in spec["deploymentSpec"]["executors"].values():
        assert "pip" not in " ".join(executor["container"]["command"])


def test_form_is_short_ordered_and_explained(spec):
    form = spec["root"]["inputDefinitions"]["parameters"]
    assert sorted(form) == [parameter.name for parameter in PARAMETERS]
    assert len(form) <= 12
    assert all(form[parameter.name]["description"] == parameter.help for parameter in PARAMETERS)
    assert form["p01_preset"]["literals"] == list(PARAMETERS[0].choices)
    assert "small-world" in form["p01_preset"]["literals"]


def test_form_and_resolve_step_know_the_same_bounds():
    fields = ResolveConfig.model_json_schema()["properties"]
    assert {parameter.short_name for parameter in PARAMETERS} == set(fields)
    for parameter in PARAMETERS:
        field = fields[parameter.short_name]
        assert parameter.default == field["default"]
        assert (parameter.minimum, parameter.maximum) == (field.get("minimum"), field.get("maximum"))


def test_form_fields_stand_for_settings_that_exist():
    for target in FIELDS.values():
        task, _, key = target.partition(".")
        assert key in TASKS[task].config_class.model_fields
