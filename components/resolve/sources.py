"""Looks at the sources of a run: which content they hold now, so that every cache below keys on content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.base_model.config import is_model_file
from components.fictional_world.uri import SCHEME
from components.resolve.code_digest import code_digests
from components.storage.source import pinned_model_uri, pinned_uri, public_uri
from components.storage.source_version import VersionUnknown, source_version

CORPUS_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Sources:
    """What the sources of a run hold."""

    corpus_uri: str
    """Without what may be secret."""
    corpus_version: str
    """16 hex digits that differ when the content does; empty when the server that holds it tells nothing."""
    found: dict[str, dict[str, Any]]
    """Task -> settings that follow: versions, and the commit instead of a branch of the hub."""


def look_up(configs: Mapping[str, Mapping[str, Any]], must_know: bool) -> Sources:
    """Return what the sources named in the settings of the tasks `corpus`, `questions` and `base_model` hold.

    With `must_know` a corpus whose changes cannot be seen is refused; else it is said and goes without a version.

    Raises:
        MissingError: a source does not exist.
        VersionUnknown: `must_know`, and the corpus has no version.
        UserError: an address is malformed or access is refused.
        StorageError: the other side fails after retries.
    """
    corpus_uri = pinned_uri(configs["corpus"]["uri"])
    corpus_version = _version(corpus_uri, CORPUS_ENDINGS, must_know)
    questions = configs["questions"]
    question_uris = {name: pinned_uri(questions[name]) for name in ("uri", "train_uri") if questions[name]}
    versions = [_version(uri, (), must_know=False) for uri in question_uris.values()]
    return Sources(
        public_uri(corpus_uri),
        corpus_version,
        {
            "corpus": {"uri": corpus_uri, "source_version": corpus_version},
            "questions": {**question_uris, "source_version": "".join(versions)},
            "base_model": _base_model(configs["base_model"]["source"]),
            "register": {"corpus_version": corpus_version},
        },
    )


def _version(uri: str, endings: tuple[str, ...], must_know: bool) -> str:
    if uri.startswith(SCHEME):
        return _world_version(uri)
    _announce(uri)
    try:
        return source_version(uri, lambda name: name.endswith(endings) if endings else True)
    except VersionUnknown as error:
        if must_know:
            raise
        print(f"warning: {error.given}: changes of it will not be noticed", flush=True)
        return ""


def _base_model(source: str) -> dict[str, str]:
    """A model of this project is its code, one of the hub its commit; of a folder the files that are taken count."""
    scheme, separator, _ = source.partition("://")
    if separator and scheme != "s3":
        return {"source": pinned_model_uri(source)}
    _announce(source)
    return {"source_version": source_version(source, is_model_file)}


def _announce(uri: str) -> None:
    """Files of this machine are read whole, which may take a while."""
    print(f"Looking at {public_uri(uri)}", flush=True)


def _world_version(uri: str) -> str:
    """A made-up world is its recipe: the address, and the code that writes it down."""
    code = code_digests(["fictional_world"])["fictional_world"]
    return hashlib.sha256(f"{uri}\n{code}".encode()).hexdigest()[:16]
