"""The base_model step: publishes the model that training starts from, in the Hugging Face layout."""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from components.base_model.config import BaseModelConfig, is_model_file
from components.base_model.model_card import small_world_card
from components.base_model.pretrain import Progress, pretrain
from components.contracts.errors import BoundaryError, ConfigError, MissingError, UserError
from components.contracts.step import Step, StepContext, StepResult
from components.storage import publish
from components.storage.failures import TaskFailures
from components.storage.source import fetch_source, pinned_model_uri

TRAINING_LOG = "pretraining.jsonl"


class HubError(BoundaryError):
    """The model hub cannot be reached or refuses."""

    boundary = "model hub"


def run(config: BaseModelConfig, context: StepContext) -> StepResult:
    """Provide the base model: bundled, made by its recipe, from a folder or from the hub.

    Raises:
        ConfigError: the source is of no known form.
        MissingError: the folder holds no model, or the hub knows none of that name.
        HubError: the hub refuses.
        StorageError: the bucket refuses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base_model"
        folder.mkdir()
        revision = _provide(config, folder)
        num_parameters = _num_parameters(folder / "model")
        manifest = publish(
            folder,
            storage_root=context.storage_root,
            kind="base_model",
            produced_by=context.produced_by(),
            counts={"parameters": num_parameters},
            metadata={"source": config.source, "revision": revision},
        )
    card = f"# base_model\n\n| | |\n|---|---|\n| source | `{config.source}` |\n| parameters | {num_parameters:,} |\n"
    return StepResult(manifest, card, {"parameters": num_parameters})


def _provide(config: BaseModelConfig, folder: Path) -> str:
    """Fill `folder/model` and return the revision of a hub model, "" for the others."""
    scheme, _, rest = config.source.partition("://")
    match scheme, rest:
        case "bundled", "small-world":
            bundled = resources.files("components.base_model") / "bundled"
            with resources.as_file(bundled) as source:
                shutil.copytree(source, folder, dirs_exist_ok=True)
        case "recipe", "small-world":
            make_small_world(config, folder)
        case "hf", name if name:
            return _download(config.source, folder / "model")
        case "s3", name if name:
            _check_model(fetch_source(config.source, folder / "model", is_model_file), config.source)
        case path, "" if path == config.source and Path(path).is_dir():
            _copy_model(Path(path), folder / "model")
        case path, "" if path == config.source:
            raise MissingError(f"The model folder {path} does not exist", remedy="correct base_model.source")
        case _:
            raise ConfigError(
                f"base_model.source = {config.source!r} names no model",
                "bundled://small-world, recipe://small-world, a local folder, s3://bucket/folder, hf://owner/name[@revision]",
            )
    return ""


def make_small_world(config: BaseModelConfig, folder: Path) -> None:
    """Pretrain the tiny model into `folder`: `model/`, its card and its training log."""

    def report(progress: Progress) -> None:
        print(
            f"pretraining {progress.step}/{config.recipe.steps}  loss {progress.loss:.3f}  "
            f"reading {progress.reading_accuracy:.3f}  {progress.seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        with (folder / TRAINING_LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(progress)) + "\n")

    pretrain(config.recipe, config.recipe_loop, folder / "model", report)
    (folder / "README.md").write_text(small_world_card(config.recipe), encoding="utf-8")
    (folder / "recipe.json").write_text(config.recipe.model_dump_json(indent=1), encoding="utf-8")


def _copy_model(source: Path, target: Path) -> None:
    _check_model(source, str(source))
    target.mkdir()
    for file in source.iterdir():
        if is_model_file(file.name):
            shutil.copy(file, target / file.name)


def _check_model(folder: Path, source: str) -> None:
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise MissingError(
            f"{source} holds no model",
            "a folder with config.json, *.safetensors and tokenizer files",
            "pickled weights are refused: convert them to safetensors first",
        )


def _download(source: str, target: Path) -> str:
    """Download a hub model without its pickled weights and return the commit it resolved to."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    repository = source.removeprefix("hf://").partition("@")[0]
    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
    try:
        commit = pinned_model_uri(source).rpartition("@")[2]
        found = snapshot_download(
            repository, revision=commit, allow_patterns=patterns, endpoint=os.environ.get("HF_ENDPOINT")
        )
    except UserError:
        raise
    except (HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise HubError(f"{repository} cannot be downloaded: {error}") from None
    _copy_model(Path(found), target)
    return commit


def _num_parameters(model_folder: Path) -> int:
    from safetensors import safe_open

    total = 0
    for file in sorted(model_folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                size = 1
                for dimension in tensors.get_slice(key).get_shape():
                    size *= dimension
                total += size
    return total


step = Step("base_model", BaseModelConfig, run, TaskFailures.of_environment)
