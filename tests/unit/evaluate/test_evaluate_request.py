"""`searchr1 evaluate` from what a person writes to what the steps are given; the steps are doubles."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest

from components.base_model.config import BaseModelConfig
from components.contracts.errors import ConfigError, ManifestError, MissingError, UserError
from components.contracts.manifest import Manifest, ProducedBy
from components.contracts.step import Step, StepResult
from components.corpus.config import CorpusConfig
from components.evaluate.config import FOREIGN_LOOP, EvaluateConfig, Method
from components.evaluate.methods import ModelInput
from components.evaluate.request import Request, evaluate_request
from components.index.config import IndexConfig
from components.questions.config import QuestionsConfig
from components.resolve.main import resolve
from components.storage import publish

CONFIGS = {
    "base_model": BaseModelConfig,
    "corpus": CorpusConfig,
    "index": IndexConfig,
    "questions": QuestionsConfig,
    "evaluate": EvaluateConfig,
}
MADE = ProducedBy(step="test", version="v", git_commit="c", config_sha256="f")
PROMPTED = ("direct", "cot", "rag", "ircot", "react", "search_o1")


@dataclass
class Workshop:
    """A folder of runs, and steps that publish their name and remember what they were given."""

    runs: Path
    configs: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)

    @property
    def root(self) -> str:
        return f"file://{self.runs.resolve()}"

    def publish(self, kind: str, text: str, made=MADE, **more) -> Manifest:
        folder = self.runs / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").write_text(text)
        return publish(folder, storage_root=self.root, kind=kind, produced_by=made, **more)

    def steps(self) -> dict[str, Step]:
        return {name: Step(name, config, self._doing(name)) for name, config in CONFIGS.items()}

    def _doing(self, name: str):
        def run(config, context, **inputs) -> StepResult:
            self.calls.append(name)
            self.configs[name], self.inputs[name] = config, inputs
            kind = "evaluation" if name == "evaluate" else name
            text = f"{name} {getattr(config, 'source', '')}"
            return StepResult(self.publish(kind, text, made=context.produced_by(), inputs=inputs))

        return run

    def ask(self, model: str, methods: str = "all", **changes) -> Path:
        empty = dict.fromkeys(("questions", "corpus", "index", "base_model", "preset"), "")
        given = empty | {"overrides": (), "runs_dir": self.runs, "output": None} | changes
        return evaluate_request(Request(model=model, methods=methods, **given), self.steps(), resolve)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    # Set first, so that what the request sets is taken back as well.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unset")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return Workshop(tmp_path / "runs")


@pytest.fixture
def finished(shop):
    """A run with all checkpoints, as its summary names them."""
    data = {name: shop.publish(name, name) for name in ("index", "questions", "base_model")}
    names = [name for name in get_args(ModelInput) if name != "base_model"]
    made = {name: shop.publish("checkpoint", name, inputs=data, metadata={"loop": {}}) for name in names}
    links = {name: {"uri": manifest.uri} for name, manifest in (data | made).items()}
    summary = {"run_id": "r-1", "preset": "small-world-quick", "lineage": links | {"corpus": {"uri": "file:///gone"}}}
    (shop.runs / "r-1").mkdir()
    (shop.runs / "r-1" / "summary.json").write_text(json.dumps(summary))
    (shop.runs / "latest").symlink_to("r-1")
    return data | made


@pytest.mark.parametrize("model", ["r-1", "latest"])
def test_a_run_brings_everything(shop, finished, model, capsys):
    folder = shop.ask(model)
    assert shop.calls == ["evaluate"] and shop.inputs["evaluate"] == finished
    assert shop.configs["evaluate"].methods == get_args(Method)
    assert shop.configs["evaluate"].max_questions_per_set == 20
    assert "left out" not in capsys.readouterr().out
    assert folder == shop.runs / "evaluate" / "r-1" and (folder / "file").is_file()
    assert Manifest.read(folder / "manifest.json").kind == "evaluation"


def test_a_checkpoint_brings_its_ancestors_and_the_rest_is_named(shop, finished, capsys):
    shop.ask(f"{finished['checkpoint'].uri.removeprefix('file://')}/manifest.json")
    wanted = {name: finished[name] for name in ("checkpoint", "base_model", "index", "questions")}
    assert shop.inputs["evaluate"] == wanted
    assert shop.configs["evaluate"].methods == ("search_r1", "base", *PROMPTED)
    said = capsys.readouterr().out
    assert [name for name in ("sft", "rl_no_search", "rejection_sampling") if f"{name} is left out" not in said] == []


@pytest.mark.parametrize("kind", ["checkpoint", "evaluation", "folder"])
def test_an_evaluation_in_the_store_names_the_baselines_of_a_checkpoint(shop, finished, kind):
    evaluation = shop.publish("evaluation", "earlier", inputs=finished)
    uri = finished["checkpoint"].uri
    what = {"checkpoint": f"{uri}/manifest.json", "evaluation": f"{evaluation.uri}/manifest.json", "folder": uri}
    shop.ask(what[kind])
    assert shop.inputs["evaluate"] == finished


def test_other_questions_and_another_corpus_replace_its_own(shop, finished):
    # What a person sets is laid over what the command would set: no dev questions.
    settings = ("evaluate.ranks=2", "questions.dev_questions=3")
    shop.ask("r-1", questions="world://mini?seed=1", corpus="world://mini?seed=1", overrides=settings)
    assert shop.calls == ["questions", "corpus", "index", "evaluate"]
    assert shop.inputs["evaluate"]["checkpoint"] == finished["checkpoint"]
    assert shop.inputs["evaluate"]["questions"] != finished["questions"]
    assert (shop.configs["questions"].uri, shop.configs["questions"].train_sets) == ("world://mini?seed=1", ())
    assert (shop.configs["evaluate"].ranks, shop.configs["questions"].dev_questions) == (2, 3)


@pytest.fixture
def foreign(tmp_path) -> str:
    folder = tmp_path / "Some Model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


DATA = {"questions": "world://mini?seed=1", "corpus": "world://mini?seed=1"}


def test_a_foreign_model_is_asked_in_the_papers_loop_and_is_its_own_base(shop, foreign, capsys):
    folder = shop.ask(foreign, **DATA)
    assert shop.calls == ["questions", "corpus", "index", "base_model", "evaluate"] and folder.name == "Some-Model"
    given = shop.inputs["evaluate"]
    assert given["checkpoint"] == given["base_model"] and shop.configs["base_model"].source == foreign
    assert shop.configs["evaluate"].methods == ("search_r1", *PROMPTED)
    assert shop.configs["evaluate"].loop == FOREIGN_LOOP
    said = capsys.readouterr().out
    assert "base is left out" in said and "sft is left out: it needs a sft checkpoint" in said


def test_a_foreign_model_has_the_base_it_is_given(shop, foreign):
    shop.ask(foreign, **DATA, base_model="hf://owner/base", overrides=("evaluate.loop.top_k=5",))
    given = shop.inputs["evaluate"]
    assert given["checkpoint"] != given["base_model"] and shop.configs["base_model"].source == "hf://owner/base"
    assert shop.configs["evaluate"].methods == ("search_r1", "base", *PROMPTED)
    assert shop.configs["evaluate"].loop == FOREIGN_LOOP.model_copy(update={"top_k": 5})


def test_an_index_is_built_once(shop, foreign):
    shop.ask(foreign, **DATA)
    shop.ask(foreign, **DATA)
    assert shop.calls.count("index") == 1
    shop.ask(foreign, **DATA, overrides=("index.k1=1.2",))
    assert shop.calls.count("index") == 2


def test_an_index_can_be_named(shop, foreign, finished):
    place = f"{finished['index'].uri}/manifest.json"
    shop.ask(foreign, questions=DATA["questions"], index=place)
    assert shop.inputs["evaluate"]["index"] == finished["index"] and "corpus" not in shop.calls


def test_methods_are_chosen_by_name(shop, finished, capsys):
    shop.ask("r-1", methods="rag, ircot")
    assert shop.configs["evaluate"].methods == ("search_r1", "rag", "ircot")
    assert "search_r1 is added" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "changes", "error", "says"),
    [
        pytest.param("r-2", {}, MissingError, r"no model 'r-2'.*name one of the runs in .*r-1", id="unknown"),
        pytest.param("hf://a/b", {}, UserError, "--questions URI together with --corpus", id="nothing-to-ask"),
        pytest.param("hf://a/b", {"questions": "q"}, UserError, "--corpus URI or --index", id="nothing-to-search"),
        pytest.param("r-1", {"methods": "rga"}, ConfigError, "'rga'.*'rag'", id="unknown-method"),
        pytest.param("r-1", {"preset": "smal-world"}, ConfigError, "did you mean", id="unknown-preset"),
        pytest.param("r-1", {"overrides": ("evaluate.rank=2",)}, ConfigError, "did you mean 'ranks'", id="setting"),
        pytest.param("models:/search-r1", {}, MissingError, "models:/name@alias", id="no-version"),
        pytest.param("absent/manifest.json", {}, MissingError, "does not exist", id="no-manifest"),
        pytest.param("INDEX", {}, ManifestError, "kind 'index'", id="manifest-of-another-kind"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_to_do(shop, finished, model, changes, error, says):
    model = f"{finished['index'].uri}/manifest.json" if model == "INDEX" else model
    with pytest.raises(error, match=f"(?s){says}") as raised:
        shop.ask(model, **changes)
    assert raised.value.exit_code == 2 and shop.calls == []


def test_a_registered_model_is_found_by_alias_and_version(shop, finished):
    from components.tracking import open_client

    uri = f"sqlite:///{shop.runs}/mlflow.db"
    client = open_client(uri)
    client.create_registered_model("search-r1")
    client.create_model_version("search-r1", finished["checkpoint"].uri)
    client.set_registered_model_alias("search-r1", "champion", "1")
    for name in ("models:/search-r1@champion", "models:/search-r1/1"):
        shop.ask(name, methods="direct")
        assert shop.inputs["evaluate"]["checkpoint"] == finished["checkpoint"]
    for name in ("models:/search-r1@nobody", "models:/other/1", "models:/search-r1/7"):
        with pytest.raises(MissingError, match="There is no 'models:/"):
            shop.ask(name)
