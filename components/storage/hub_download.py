"""Brings files of a Hugging Face data set to this machine, through the hub's own cache, and tells commits.

A revision is resolved to a commit once; files and their list stay in the cache (`HF_HOME`), so that with
`HF_HUB_OFFLINE=1` the same call gives the same files, or fails by naming what the cache lacks.
"""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.contracts.errors import MissingError, StorageError, UserError
from components.storage.protocol import checked_key

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CHUNK_BYTES = 1 << 20
_LOAD = "run once with HF_HUB_OFFLINE=0 and the same HF_HOME"


def dataset_commit(repository: str, revision: str) -> str:
    """Return the commit that `revision` (a branch, a tag, a commit) of a data set names now; offline, named last.

    Raises:
        MissingError: data set or revision do not exist, or are not in the cache while offline.
        StorageError: the hub fails.
    """
    with _hub_failures(repository, revision):
        # An empty list of patterns resolves the revision and lists the files without loading one.
        return _snapshot(repository, revision, []).name


def model_commit(repository: str, revision: str) -> str:
    """Return the commit that `revision` (a branch, a tag, a commit) of a model names now; offline, named last.

    Raises:
        MissingError: model or revision do not exist, or are not in the cache while offline.
        StorageError: the hub fails.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    with _hub_failures(repository, revision, "Model"):
        return _snapshot(repository, revision, [], "model").name


def download_dataset(repository: str, revision: str, prefix: str, wanted: Callable[[str], bool]) -> Path:
    """Return the local folder (or the one file) `prefix` of a data set, with the `wanted` files below it.

    Every file is compared with the digest that the hub states for it; a damaged one is loaded once more.

    Raises:
        MissingError: data set, revision or files do not exist, or are not in the cache while offline.
        StorageError: the hub fails, or what it sends differs from its own digest.
    """
    with _hub_failures(repository, revision):
        from huggingface_hub import get_cached_repo_tree, is_offline_mode

        commit = _snapshot(repository, revision, []).name
        tree = get_cached_repo_tree(repository, repo_type="dataset", revision=commit)
        every = [entry.path for entry in tree]
        inside = [name for name in every if not prefix or name == prefix or name.startswith(f"{prefix}/")]
        names = [checked_key(name) for name in inside if name == prefix or wanted(name.removeprefix(f"{prefix}/"))]
        if not names:
            raise MissingError(f"Data set {repository}@{revision} holds nothing of use at {prefix or 'its top'!r}")
        patterns = [glob.escape(name) for name in names]
        if is_offline_mode():
            _refuse_absent(repository, commit, names)
        folder = _snapshot(repository, commit, patterns)
        damaged = [glob.escape(name) for name in names if not _is_intact(folder / name)]
        if damaged:
            _snapshot(repository, commit, damaged, force_download=True)
        if still := [name for name in names if not _is_intact(folder / name)]:
            raise StorageError(f"{repository}@{commit}: {still[0]} differs from the digest that the hub states for it")
    return folder / prefix if prefix else folder


def _snapshot(repository: str, revision: str, patterns: list[str], kind: str = "dataset", **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    found = snapshot_download(
        repository,
        repo_type=kind,
        revision=revision,
        allow_patterns=patterns,
        endpoint=os.environ.get("HF_ENDPOINT"),
        max_workers=4,
        **options,
    )
    folder = Path(found)
    # Offline, the cache takes a snapshot for complete when its folder exists: for one that was only listed.
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _refuse_absent(repository: str, commit: str, names: list[str]) -> None:
    folder = _snapshot(repository, commit, [])
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise MissingError(f"Data set {repository}@{commit} lacks in the cache: {', '.join(absent[:5])}", "", _LOAD)


def _is_intact(path: Path) -> bool:
    """Compare a cached file with its name in the cache: SHA-256 of large files, git's object id of the others.

    A mirror that states other tags gives other names, which say nothing and are let pass.
    """
    stored = path.resolve()
    if not _DIGEST.fullmatch(stored.name):
        return True
    size = stored.stat().st_size
    digest = hashlib.sha256() if len(stored.name) == 64 else hashlib.sha1(f"blob {size}\0".encode())
    with stored.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == stored.name


@contextmanager
def _hub_failures(repository: str, revision: str, kind: str = "Data set") -> Iterator[None]:
    """Turn the hub client's errors into ours."""
    try:
        from huggingface_hub import is_offline_mode
        from huggingface_hub.errors import (
            CachedRepoTreeNotFoundError,
            EntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError:
        raise UserError("hf:// needs the package huggingface_hub", remedy="pip install huggingface_hub") from None
    what = f"{kind} {repository}@{revision}"
    try:
        yield
    except (UserError, StorageError):
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise MissingError(
            f"{what} was not found: {str(error).splitlines()[-1]}",
            remedy=f"check the name; a private {kind.lower()} needs the environment variable HF_TOKEN",
        ) from None
    except (CachedRepoTreeNotFoundError, EntryNotFoundError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if is_offline_mode():
            raise MissingError(
                f"{what} is not in the cache: {reason}",
                remedy=_LOAD,
            ) from None
        raise StorageError(f"{what}: {reason}") from error
