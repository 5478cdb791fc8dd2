"""Brings foreign data (a path, `https://`, `s3://`, `hf://`) to this machine, as it is; callers judge its bytes."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from components.contracts.errors import ConfigError, MissingError, UserError
from components.storage.http_download import download
from components.storage.hub_download import dataset_commit, download_dataset, model_commit
from components.storage.open import open_storage
from components.storage.protocol import checked_key

ALLOWED = "a path, https://..., s3://bucket/key, hf://datasets/owner/name[@revision][/path]"
_HUB = "hf://"
_MODEL_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def fetch_source(uri: str, folder: Path, wanted: Callable[[str], bool]) -> Path:
    """Return the local file or folder that holds what `uri` names.

    A local path is returned as it is. A remote file is downloaded into `folder`, which may hold parts of an
    earlier attempt; of a remote folder only the files whose relative name is `wanted`. Files of the Hugging
    Face Hub stay in its own cache, from which they come again without a network.

    Raises:
        MissingError: there is nothing of that name.
        UserError: the URI is malformed or access is refused.
        StorageError: the other side fails after retries.
    """
    scheme, separator, rest = uri.partition("://")
    match scheme if separator else "file":
        case "file":
            return _local(rest if separator else uri)
        case "http" | "https":
            return download(uri, folder)
        case "s3":
            return _from_s3(uri, folder, wanted)
        case "hf":
            return download_dataset(*_dataset_of(uri), wanted)
    raise UserError(f"The source {public_uri(uri)!r} is of an unknown kind", ALLOWED)


def pinned_uri(uri: str) -> str:
    """Return `uri` with the commit that its branch or tag names now; what is not of the hub comes back unchanged.

    Raises:
        MissingError: there is no such data set or revision.
        UserError: the URI is malformed.
        StorageError: the hub fails.
    """
    if not uri.startswith(_HUB):
        return uri
    repository, revision, path = _dataset_of(uri)
    commit = dataset_commit(repository, revision)
    return f"{_HUB}datasets/{repository}@{commit}" + (f"/{path}" if path else "")


def pinned_model_uri(uri: str) -> str:
    """Return `hf://owner/name[@revision]` with the commit it names now; what is not of the hub comes back unchanged.

    Raises:
        MissingError: there is no such model or revision.
        ConfigError: the URI is malformed.
        StorageError: the hub fails.
    """
    if not uri.startswith(_HUB):
        return uri
    repository, _, revision = uri.removeprefix(_HUB).partition("@")
    if not _MODEL_NAME.fullmatch(repository):
        raise ConfigError(f"{uri} names no model", "hf://owner/name[@revision]")
    return f"{_HUB}{repository}@{model_commit(repository, revision or 'main')}"


def public_uri(uri: str) -> str:
    """Return `uri` without what may be secret: user and password, query and fragment of web addresses."""
    if not uri.startswith(("http://", "https://")):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _local(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise MissingError(f"{found.absolute()} does not exist", remedy=f"correct the path; sources are {ALLOWED}")
    return found


def _from_s3(uri: str, folder: Path, wanted: Callable[[str], bool]) -> Path:
    parent, _, name = uri.rstrip("/").rpartition("/")
    if parent.startswith("s3://"):
        beside = open_storage(parent)
        if beside.exists(name):
            beside.get_file(name, folder / name)
            return folder / name
    storage = open_storage(uri)
    names = [info.key for info in storage.list() if wanted(info.key)]
    if not names:
        raise MissingError(f"{uri} is no object and holds none that is of use", remedy="check bucket and prefix")
    for name in names:
        storage.get_file(checked_key(name), folder / name)
    return folder


def _dataset_of(uri: str) -> tuple[str, str, str]:
    """Return repository, revision and path of `hf://datasets/owner/name[@revision][/path]`."""
    kind, _, rest = uri.removeprefix(_HUB).partition("/")
    parts = rest.split("/", 2)
    if kind != "datasets" or len(parts) < 2 or not all(parts[:2]):
        raise UserError(f"{uri} names no data set", "hf://datasets/owner/name[@revision][/path]")
    name, _, revision = parts[1].partition("@")
    return f"{parts[0]}/{name}", revision or "main", parts[2].strip("/") if len(parts) > 2 else ""
