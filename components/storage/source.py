"""Brings foreign data (a path, `https://`, `s3://`, `hf://`) to this machine, as it is; callers judge its bytes."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from components.contracts.errors import MissingError, StorageError, UserError
from components.storage.http_download import download
from components.storage.open import open_storage
from components.storage.protocol import checked_key

ALLOWED = "a path, https://..., s3://bucket/key, hf://datasets/owner/name[@revision][/path]"


def fetch_source(uri: str, folder: Path, wanted: Callable[[str], bool]) -> Path:
    """Return the local file or folder that holds what `uri` names.

    A local path is returned as it is. A remote file is downloaded into `folder`, which may hold parts of an
    earlier attempt; of a remote folder only the files whose relative name is `wanted`.

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
            return _from_hugging_face(rest, folder, wanted)
    raise UserError(f"The source {public_uri(uri)!r} is of an unknown kind", ALLOWED)


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


def _from_hugging_face(rest: str, folder: Path, wanted: Callable[[str], bool]) -> Path:
    kind, _, rest = rest.partition("/")
    parts = rest.split("/", 2)
    if kind != "datasets" or len(parts) < 2 or not all(parts[:2]):
        raise UserError(f"hf://{kind}/{rest} names no data set", "hf://datasets/owner/name[@revision][/path]")
    name, _, revision = parts[1].partition("@")
    return _download_dataset(f"{parts[0]}/{name}", revision or "main", parts[2:], folder, wanted)


def _download_dataset(
    repository: str, revision: str, path: list[str], folder: Path, wanted: Callable[[str], bool]
) -> Path:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise UserError("hf:// needs the package huggingface_hub", remedy="pip install huggingface_hub") from None
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    prefix = path[0].rstrip("/") if path else ""
    try:
        every = hub.list_repo_files(repository, repo_type="dataset", revision=revision)
        inside = [name for name in every if not prefix or name == prefix or name.startswith(f"{prefix}/")]
        names = [name for name in inside if name == prefix or wanted(name.removeprefix(f"{prefix}/"))]
        if not names:
            raise MissingError(f"Data set {repository}@{revision} holds nothing of use at {prefix or 'its top'!r}")
        for name in names:
            hub.hf_hub_download(
                repository, checked_key(name), repo_type="dataset", revision=revision, local_dir=str(folder)
            )
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise MissingError(
            f"Data set {repository}@{revision} was not found: {str(error).splitlines()[-1]}",
            remedy="check the name; a private data set needs the environment variable HF_TOKEN",
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, (MissingError, UserError)):
            raise
        raise StorageError(f"Hugging Face data set {repository}@{revision}: {error}") from error
    return folder / prefix if prefix else folder
