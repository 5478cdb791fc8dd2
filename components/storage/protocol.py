"""What every storage backend promises; keys are relative POSIX paths below the URI the storage was opened with.

Writes are atomic: a reader sees the old object, the new one or none, never a part. A missing object is a
`MissingError`, a path or bucket that a person must mend a `UserError`, anything else the disk or the
server refuses after retries a `StorageError`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.contracts.errors import ManifestError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object; `etag` changes whenever its bytes do, `modified` counts seconds since 1970."""

    key: str
    size: int
    etag: str
    modified: float


class Storage(Protocol):
    """Objects by key below one `file://` or `s3://` URI."""

    def put_file(self, local: Path, key: str) -> None:
        """Store a copy of the file `local`."""
        ...

    def take_file(self, local: Path, key: str) -> None:
        """Store the file `local`, which may be gone afterwards: a disk moves it where it can."""
        ...

    def put_bytes(self, data: bytes, key: str, if_absent: bool = False) -> bool:
        """Store `data` and return True; with `if_absent`, return False and change nothing when the key exists."""
        ...

    def get_file(self, key: str, local: Path) -> None:
        """Write the object to the file `local`, creating its folder."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """Return the object's bytes."""
        ...

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects in the folder `prefix` and below, sorted by key; a missing folder has none."""
        ...

    def info(self, key: str) -> ObjectInfo:
        """Return size, entity tag and time of the object without reading it."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object in the folder `prefix` and below; the whole storage cannot be named."""
        ...

    def uri(self, key: str = "") -> str:
        """Return the full URI of a key."""
        ...


def checked_key(key: str) -> str:
    """Return `key` unchanged.

    Raises:
        ManifestError: the key is empty, absolute, or could leave the storage (`..`, a backslash, a NUL).
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise ManifestError(
            f"The path {key!r} is refused: it could point outside its folder",
            allowed="relative paths such as model/config.json",
            remedy="do not use this manifest; publish the data again",
        )
    return key


def folder_key(prefix: str) -> str:
    """Return `prefix` with exactly one slash at its end, so that `a/b` never names `a/bc`."""
    return f"{checked_key(prefix.rstrip('/'))}/"
