"""From a URI to the storage behind it."""

import uuid
from pathlib import Path

from components.contracts.errors import UserError
from components.storage.local import LocalStorage
from components.storage.protocol import Storage


def open_storage(uri: str) -> Storage:
    """Return the storage at `uri`; nothing is read or written yet.

    Raises:
        UserError: the URI is neither `file:///absolute/folder` nor `s3://bucket/prefix`.
    """
    scheme, _, rest = uri.partition("://")
    match scheme:
        case "file" if rest.startswith("/"):
            return LocalStorage(Path(rest))
        case "s3" if rest.strip("/"):
            from components.storage.s3 import S3Storage

            bucket, _, prefix = rest.partition("/")
            return S3Storage(bucket, prefix)
    raise UserError(f"{uri!r} names no storage", "file:///absolute/folder, s3://bucket/prefix", "correct the URI")


def check_writable(uri: str) -> None:
    """Write and delete a small object below `uri`, so that a bad storage root is known before work begins.

    Raises:
        UserError: the URI is malformed, the folder not writable or the bucket missing.
        StorageError: the storage refuses.
    """
    storage = open_storage(uri)
    probe = f".writable-{uuid.uuid4().hex}"
    storage.put_bytes(b"", probe)
    storage.delete(probe)
