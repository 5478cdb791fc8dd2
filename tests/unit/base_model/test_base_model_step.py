"""The step: every kind of source ends in the same layout, and a bad one in an error that says what to do."""

import json

import pytest
import torch

from components.agent.engines.load import load_model
from components.base_model.config import BaseModelConfig
from components.base_model.main import run, step
from components.base_model.model_card import small_world_card
from components.contracts.errors import ConfigError, MissingError
from components.contracts.step import StepContext
from components.storage import fetch, open_storage

RECIPE = {"hidden_size": 32, "num_layers": 1, "intermediate_size": 32, "rows_per_step": 4, "steps": 2}


def execute(root, source, **values):
    config = BaseModelConfig.parse({"source": source, "recipe": RECIPE | values})
    return run(config, StepContext("base_model", f"file://{root}", "0" * 64, config.sha256()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("base model")
    return root, execute(root, "recipe://small-world")


def test_recipe_makes_a_model_with_its_card_log_and_settings(made):
    _, result = made
    folder = fetch(result.manifest)
    model, _ = load_model(folder / "model", "cpu")
    assert result.manifest.kind == "base_model"
    assert result.manifest.counts == {"parameters": model.num_parameters()}
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 2
    assert [json.loads(line)["step"] for line in (folder / "pretraining.jsonl").open()] == [2]
    assert "Tiny base model" in (folder / "README.md").read_text()


def test_recipe_is_repeatable(made, tmp_path):
    again = execute(tmp_path, "recipe://small-world")
    weights = [
        entry.sha256
        for manifest in (made[1].manifest, again.manifest)
        for entry in manifest.files
        if entry.path.endswith("model.safetensors")
    ]
    assert weights[0] == weights[1]


def test_folder_is_copied_without_what_is_no_model_file(made, tmp_path):
    source = fetch(made[1].manifest) / "model"
    copy = tmp_path / "mine"
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "optimizer.bin").write_bytes(b"pickled")
    (copy / "modeling_evil.py").write_text("raise SystemExit")
    result = execute(tmp_path / "runs", str(copy))
    names = {entry.path for entry in result.manifest.files}
    assert names == {f"model/{file.name}" for file in source.iterdir()}
    assert result.manifest.metadata["source"] == str(copy)


def test_a_bucket_gives_what_a_folder_gives(made, tmp_path, s3_root):
    source, storage = fetch(made[1].manifest) / "model", open_storage(f"{s3_root}/mine")
    for file in source.iterdir():
        storage.put_file(file, file.name)
    storage.put_bytes(b"pickled", "pytorch_model.bin")
    storage.put_bytes(b"{}", "checkpoint-1/config.json")
    result = execute(tmp_path / "runs", f"{s3_root}/mine")
    assert {entry.path for entry in result.manifest.files} == {f"model/{file.name}" for file in source.iterdir()}


def test_a_bucket_without_weights_is_refused(tmp_path, s3_root):
    open_storage(f"{s3_root}/mine").put_bytes(b"{}", "config.json")
    with pytest.raises(MissingError, match="holds no model"):
        execute(tmp_path / "runs", f"{s3_root}/mine")


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingError, match=r"(?s)holds no model.*convert them to safetensors"):
        execute(tmp_path / "runs", str(tmp_path))
    assert not (tmp_path / "runs" / "store").exists()


@pytest.mark.parametrize(
    "source", ["recipe://large-world", "bundled://other", "gs://b/model", "s3://", "hf://", "hf://a/b/c", "://"]
)
def test_unknown_source_is_an_error_that_names_the_forms(source, tmp_path):
    with pytest.raises(ConfigError, match="names no model") as raised:
        execute(tmp_path, source)
    assert "hf://owner/name[@revision]" in str(raised.value)


TRY = """
import sys
from components.base_model.config import BaseModelConfig
from components.base_model.main import run
from components.contracts.errors import SearchR1Error
from components.contracts.step import StepContext

config = BaseModelConfig.parse({"source": sys.argv[1]})
try:
    print(run(config, StepContext("base_model", "file:///nowhere", "0" * 64, "1")))
except SearchR1Error as error:
    print(type(error).__name__, error.exit_code, " ".join(str(error).split()))
"""


@pytest.mark.parametrize(
    ("url", "offline", "said"),
    [
        pytest.param("http://127.0.0.1:9", False, "HubError 75 model hub: owner/name cannot be downloaded", id="away"),
        pytest.param("", True, "MissingError 2 Model owner/name@main is not in the cache", id="offline"),
    ],
)
def test_hub_that_cannot_be_asked_is_named(hub, url, offline, said):
    hub.url = url or hub.url
    assert hub.python(TRY, "hf://owner/name@main", offline=offline).stdout.startswith(said)


def test_a_commit_of_the_hub_is_what_comes_and_is_named(made, hub, tmp_path):
    commit = "c0ffee" + "0" * 34
    hub.files |= {file.name: file.read_bytes() for file in (fetch(made[1].manifest) / "model").iterdir()}
    hub.files |= {"pytorch_model.bin": b"pickled", "modeling_evil.py": b"raise SystemExit"}
    code = TRY.replace("file:///nowhere", (tmp_path / "runs").as_uri())
    done = hub.python(code, f"hf://owner/name@{commit}")
    assert f"'revision': '{commit}'" in done.stdout, done.stderr
    stored = {path.name for path in (tmp_path / "runs").rglob("model/*")}
    assert stored == {file.name for file in (fetch(made[1].manifest) / "model").iterdir()}
    # What the branch names today is no matter.
    assert not [path for path in hub.requests if "main" in path or path.endswith((".bin", ".py"))]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(MissingError, match="does not exist"):
        execute(tmp_path, str(tmp_path / "nowhere"))


def test_card_counts_what_the_model_has_seen():
    recipe = BaseModelConfig.parse({"recipe": {"steps": 1_000, "rows_per_step": 64, "walk_frac": 0.25}}).recipe
    card = small_world_card(recipe)
    assert "64,000 rows" in card
    assert "75% reading comprehension" in card
    assert "25% **uninformed transcripts**" in card


def test_step_is_bound_to_its_config():
    assert (step.name, step.config_class, step.run) == ("base_model", BaseModelConfig, run)
