"""Says which content a source has now, without bringing it here: equal versions mean equal bytes.

A version is 16 hex digits. It is made of SHA-256 digests for what lies on a disk, entity tags and sizes for objects
and web files, the commit for a data set of the hub, and the digest of our own manifest where one lies at the address.
An upload in parts of another size gives equal bytes another entity tag: such a version differs without need, never the
other way round.
"""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from components.contracts.errors import ManifestError, MissingError, StorageError, UserError
from components.contracts.manifest import Manifest
from components.storage.local import LocalStorage
from components.storage.open import open_storage
from components.storage.protocol import Storage
from components.storage.source import pinned_uri, public_uri
from components.storage.store import MANIFEST_NAME, sha256_of

ATTEMPTS = 4
FIRST_BACK_OFF_S = 0.5
TIMEOUT_S = 30.0
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class VersionUnknown(UserError):
    """The server that holds a source says nothing by which a change of it could be seen."""


def source_version(uri: str, wanted: Callable[[str], bool]) -> str:
    """Return the version of what `uri` names; of a folder only files whose relative name is `wanted` count.

    Raises:
        MissingError: there is nothing of that name.
        VersionUnknown: a web server states neither an entity tag nor a time of change.
        UserError: the URI is malformed or access is refused.
        StorageError: the other side fails after retries.
    """
    scheme, separator, rest = uri.partition("://")
    match scheme if separator else "file":
        case "file":
            return _of_path(Path(rest if separator else uri).expanduser(), wanted)
        case "http" | "https":
            return _digest([_web_tag(uri)])
        case "s3":
            return _of_objects(uri, wanted)
        case "hf":
            return _digest([pinned_uri(uri)])
    raise UserError(f"The source {public_uri(uri)!r} is of an unknown kind", "a path, https://, s3://, hf://")


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _of_path(path: Path, wanted: Callable[[str], bool]) -> str:
    if path.is_file():
        return _digest([sha256_of(path)])
    if not path.is_dir():
        raise MissingError(f"{path.absolute()} does not exist", remedy="correct the path")
    if published := _published(LocalStorage(path.absolute())):
        return published
    names = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return _digest(f"{name}\t{sha256_of(file)}" for name, file in names.items() if wanted(name))


def _of_objects(uri: str, wanted: Callable[[str], bool]) -> str:
    parent, _, name = uri.rstrip("/").rpartition("/")
    if parent.startswith("s3://"):
        try:
            found = open_storage(parent).info(name)
            return _digest([f"{found.size}\t{found.etag}"])
        except MissingError:
            pass  # a prefix, or nothing: the list tells
    storage = open_storage(uri)
    if published := _published(storage):
        return published
    lines = [f"{info.key}\t{info.size}\t{info.etag}" for info in storage.list() if wanted(info.key)]
    if not lines:
        raise MissingError(f"{uri} is no object and holds none that is of use", remedy="check bucket and prefix")
    return _digest(lines)


def _published(storage: Storage) -> str:
    """Return the version of content that this project published there, an empty string for foreign data."""
    try:
        manifest = Manifest.from_json(storage.get_bytes(MANIFEST_NAME).decode(errors="replace"))
    except (MissingError, ManifestError):
        return ""
    return _digest([manifest.digest])


def _web_tag(url: str) -> str:
    """Return what the server states about the file: entity tag, else time of change and length."""
    headers = _headers(url)
    if tag := headers.get("ETag"):
        return f"{tag}\t{headers.get('Content-Length', '')}"
    if changed := headers.get("Last-Modified"):
        return f"{changed}\t{headers.get('Content-Length', '')}"
    raise VersionUnknown(
        f"The server of {public_uri(url)} states neither an entity tag nor a time of change",
        remedy="keep the file where changes can be seen (s3://, hf://, a disk), or name a new address for new content",
    )


def _headers(url: str) -> http.client.HTTPMessage:
    for attempt in range(ATTEMPTS):
        try:
            asked = urllib.request.Request(url, method="HEAD", headers={"Accept-Encoding": "identity"})
            with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:
                return answer.headers
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise MissingError(f"{public_uri(url)} does not exist (HTTP {error.code})") from None
            if error.code in (405, 501):
                raise VersionUnknown(f"The server of {public_uri(url)} does not answer HEAD") from None
            if error.code not in _TRANSIENT_STATUS:
                raise UserError(f"{public_uri(url)} is refused (HTTP {error.code})", remedy="check access") from None
            reason = f"HTTP {error.code}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
        except ValueError:
            raise UserError(f"{public_uri(url)} is no web address") from None
        time.sleep(FIRST_BACK_OFF_S * 2**attempt if attempt + 1 < ATTEMPTS else 0)
    raise StorageError(f"{public_uri(url)} failed {ATTEMPTS} times: {reason}")
