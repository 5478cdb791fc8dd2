"""Bytes on a disk or in an object store: atomic, addressed by content, verified before use."""

from components.storage.lineage import Ancestor, lineage, render_lineage
from components.storage.open import check_writable, open_storage
from components.storage.protocol import ObjectInfo, Storage
from components.storage.store import check_stored, fetch, publish, read_manifest, sha256_of, store_key, verify

__all__ = [
    "Ancestor",
    "ObjectInfo",
    "Storage",
    "check_stored",
    "check_writable",
    "fetch",
    "lineage",
    "open_storage",
    "publish",
    "read_manifest",
    "render_lineage",
    "sha256_of",
    "store_key",
    "verify",
]
