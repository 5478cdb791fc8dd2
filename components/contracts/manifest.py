"""Pointer manifests: the small JSON that travels between steps while the bytes stay in storage."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.contracts.errors import ManifestError, MissingError

Kind = Literal[
    "corpus", "index", "questions", "base_model", "checkpoint", "evaluation", "registration", "summary", "inspection"
]
SCHEMA_VERSION = 1


class FileEntry(BaseModel):
    """One file below the manifest's `uri`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: int = Field(ge=0)
    sha256: str


class ProducedBy(BaseModel):
    """Which code and configuration made the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    version: str
    git_commit: str
    config_sha256: str
    seconds: float = 0.0
    """Wall time of the step when it really ran."""


class Manifest(BaseModel):
    """Points to data under `uri`; `digest` identifies it by content, `inputs` names what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Kind
    uri: str
    files: tuple[FileEntry, ...]
    digest: str
    produced_by: ProducedBy
    inputs: dict[str, str] = {}
    """Input name -> digest of the manifest it came from: the lineage chain."""
    counts: dict[str, float] = {}
    """Headline numbers: passages, questions, steps, ..."""
    metadata: dict[str, Any] = {}
    """Small facts a reader needs to open the data (index kind, tokenizer, golden queries ...)."""
    mlflow: dict[str, str] = {}
    """`run_id` and `url` of the tracking run, when there is one."""

    def to_json(self) -> str:
        """Return the manifest as indented JSON with sorted keys."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "manifest") -> Self:
        """Return the manifest in `text`.

        Raises:
            ManifestError: it is not JSON, lacks a field, or is of another schema version.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ManifestError(f"{where} is not a manifest of schema {SCHEMA_VERSION}: {error}") from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the manifest in the local file `path` (a KFP artifact).

        Raises:
            MissingError: the file does not exist.
            ManifestError: it is not a manifest.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingError(f"Manifest {path} does not exist", remedy="run the step that makes it")
        return cls.from_json(path.read_text(encoding="utf-8"), str(path))

    def write(self, path: str | Path) -> None:
        """Write the manifest to the local file `path`, creating its folder."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")


def content_digest(files: tuple[FileEntry, ...] | list[FileEntry]) -> str:
    """Return the SHA-256 over the sorted (path, size, sha256) of `files`: equal content, equal digest."""
    lines = sorted(f"{entry.path}\t{entry.size}\t{entry.sha256}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
