"""What a launcher and the nodes it starts tell each other, in a folder of the storage that both can reach.

`settings.json` and `inputs/<name>.json` go in; `out/` holds what the first rank leaves, or `error.json` what the first
rank that failed says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts.errors import MissingError
from components.contracts.manifest import Manifest
from components.contracts.step import OUTPUT_NAMES, StepContext, StepResult
from components.storage import open_storage
from components.train.config import TrainConfig

SETTINGS, ERROR = "settings.json", "error.json"


class JobFolder:
    """The folder of one job at `uri`; every method may raise `StorageError`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._storage = open_storage(uri)

    def write_inputs(self, config: TrainConfig, context: StepContext, inputs: Mapping[str, Manifest]) -> None:
        """Leave what a node needs."""
        settings = {
            "storage_root": context.storage_root,
            "code_sha256": context.code_sha256,
            "config": config.model_dump(mode="json"),
        }
        for name, manifest in inputs.items():
            self._storage.put_bytes(manifest.to_json().encode(), f"inputs/{name}.json")
        self._storage.put_bytes(json.dumps(settings).encode(), SETTINGS)

    def fetch_inputs(self, folder: Path) -> list[str]:
        """Bring them to the local `folder` and return the step's arguments that name them."""
        keys = [entry.key for entry in self._storage.list("inputs")]
        for key in (SETTINGS, *keys):
            self._storage.get_file(key, folder / key)
        named = [f"--input={Path(key).stem}={folder / key}" for key in keys]
        return [f"--settings={folder / SETTINGS}", *named]

    def write_result(self, folder: Path) -> None:
        """Keep the outputs in the local `folder`; the manifest comes last and makes them whole."""
        for name in sorted(OUTPUT_NAMES.values(), key=lambda name: name == OUTPUT_NAMES["manifest"]):
            self._storage.put_file(folder / name, f"out/{name}")

    def result(self) -> StepResult:
        """Return what the first rank left.

        Raises:
            MissingError: it left nothing.
        """
        read = {key: self._storage.get_bytes(f"out/{name}").decode() for key, name in OUTPUT_NAMES.items()}
        return StepResult(Manifest.from_json(read["manifest"]), read["card"], json.loads(read["metrics"]), read["html"])

    def has_result(self) -> bool:
        """Return whether the first rank left its outputs."""
        return self._storage.exists(f"out/{OUTPUT_NAMES['manifest']}")

    def write_error(self, record: bytes) -> None:
        """Keep the record of a failure unless there is one: among ranks the first failure is the cause."""
        self._storage.put_bytes(record, ERROR, if_absent=True)

    def error(self) -> dict[str, Any] | None:
        """Return the record of the rank that failed first, if one had the time to write it."""
        try:
            return json.loads(self._storage.get_bytes(ERROR))
        except MissingError:
            return None

    def forget_error(self) -> None:
        """Drop the record of an earlier attempt."""
        self._storage.delete(ERROR)

    def clear(self) -> None:
        """Drop outputs and record of an earlier attempt."""
        self._storage.delete_prefix("out")
        self.forget_error()
