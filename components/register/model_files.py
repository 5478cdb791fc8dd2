"""Makes a checkpoint's prefix loadable by MLflow without copying a weight: a few small files beside the model.

`MLmodel` declares two flavors. `python_function` answers questions with the search loop (`pyfunc_model.py`);
`transformers` is the bare network. None of the files is listed in the checkpoint's manifest, so its digest
stays what it was.
"""

import json
import platform
from dataclasses import dataclass
from pathlib import PurePosixPath

from components.agent.config import LoopConfig
from components.contracts.errors import ManifestError, MissingError
from components.contracts.manifest import FileEntry, Manifest
from components.storage import open_storage

MODEL_FOLDER = "model"
SERVING_NAME = "searchr1.json"
MLMODEL_NAME = "MLmodel"
_TOKENIZER_FOLDER = "components/tokenizer"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt")


@dataclass(frozen=True)
class Serving:
    """What the loaded model needs besides its weights: which index it searches, and how."""

    checkpoint: Manifest
    index: Manifest
    loop: LoopConfig

    def to_json(self) -> str:
        """Return the content of `searchr1.json`."""
        manifests = {"checkpoint": self.checkpoint, "index": self.index}
        values = {name: json.loads(manifest.to_json()) for name, manifest in manifests.items()}
        return json.dumps({"schema_version": 1, "loop": json.loads(self.loop.to_json()), **values}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Serving":
        """Return what `to_json` wrote.

        Raises:
            ManifestError: the text is something else.
        """
        try:
            values = json.loads(text)
            manifests = {name: json.dumps(values[name]) for name in ("checkpoint", "index")}
            loop = LoopConfig.parse(values["loop"], where="loop")
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{SERVING_NAME} is malformed: {error}", remedy="register the checkpoint again"
            ) from error
        return cls(loop=loop, **{name: Manifest.from_json(text, SERVING_NAME) for name, text in manifests.items()})


def loop_of(checkpoint: Manifest) -> LoopConfig:
    """Return the search loop the checkpoint was trained with.

    Raises:
        ManifestError: its manifest does not say.
    """
    if not isinstance(checkpoint.metadata.get("loop"), dict):
        raise ManifestError(f"The checkpoint at {checkpoint.uri} does not say how it searches", "metadata.loop")
    return LoopConfig.parse(checkpoint.metadata["loop"], where="checkpoint.metadata.loop")


def write_model_files(checkpoint: Manifest, index: Manifest, run_id: str) -> None:
    """Write `MLmodel`, `searchr1.json` and a copy of the tokenizer's small files into the checkpoint's prefix.

    Raises:
        ManifestError: the checkpoint holds no model, or does not say how it searches.
        StorageError: the storage refuses.
    """
    small = [entry for entry in checkpoint.files if _is_small_model_file(entry)]
    if not any(entry.path == f"{MODEL_FOLDER}/config.json" for entry in small):
        raise ManifestError(f"The checkpoint at {checkpoint.uri} has no {MODEL_FOLDER}/config.json")
    storage = open_storage(checkpoint.uri)
    serving = Serving(checkpoint, index, loop_of(checkpoint))
    try:
        for entry in small:
            storage.put_bytes(storage.get_bytes(entry.path), f"{_TOKENIZER_FOLDER}/{PurePosixPath(entry.path).name}")
    except MissingError as error:
        raise ManifestError(f"The checkpoint is damaged: {error.given}", remedy="run the train step again") from error
    storage.put_bytes(serving.to_json().encode(), SERVING_NAME)
    # Last, so that a prefix with it has everything.
    storage.put_bytes(_mlmodel(checkpoint, index, run_id).encode(), MLMODEL_NAME)


def has_model_files(checkpoint: Manifest) -> bool:
    """Return whether `write_model_files` has finished for this checkpoint."""
    return open_storage(checkpoint.uri).exists(MLMODEL_NAME)


def _is_small_model_file(entry: FileEntry) -> bool:
    return PurePosixPath(entry.path).parent.name == MODEL_FOLDER and not entry.path.endswith(_WEIGHTS)


def _mlmodel(checkpoint: Manifest, index: Manifest, run_id: str) -> str:
    from mlflow.models import Model

    model = Model(run_id=run_id or None, metadata={"checkpoint": checkpoint.digest, "index": index.digest})
    model.add_flavor(
        "python_function", loader_module="components.register.pyfunc_model", python_version=platform.python_version()
    )
    # Auto classes are always transformers' own: for an unknown class name MLflow would trust remote code.
    model.add_flavor(
        "transformers",
        task="text-generation",
        instance_type="TextGenerationPipeline",
        pipeline_model_type="AutoModelForCausalLM",
        source_model_name=f"searchr1-{checkpoint.digest[:16]}",
        model_binary=MODEL_FOLDER,
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
    )
    return model.to_yaml()
