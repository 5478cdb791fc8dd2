"""The chain corpus -> index -> checkpoint -> evaluation -> model version, read back from the stored manifests."""

from dataclasses import dataclass
from typing import get_args

from components.contracts.errors import MissingError
from components.contracts.manifest import Kind, Manifest
from components.storage.open import open_storage
from components.storage.protocol import Storage
from components.storage.store import MANIFEST_NAME, store_key


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One link of the chain; `depth` 0 is the manifest that was asked about."""

    name: str
    """The input name under which the link below used it, or the kind at depth 0."""
    depth: int
    digest: str
    manifest: Manifest | None
    """None when it is no longer stored below the storage root."""
    repeated: bool = False
    """True when it stands further up already; its own inputs are then not repeated."""


def lineage(manifest: Manifest, storage_root: str) -> list[Ancestor]:
    """Return the manifest and everything it was made from, each input below what it went into.

    Raises:
        StorageError: the storage refuses.
        ManifestError: a stored manifest is malformed.
    """
    chain: list[Ancestor] = []
    _walk(Ancestor(manifest.kind, 0, manifest.digest, manifest), open_storage(storage_root), chain)
    return chain


def render_lineage(chain: list[Ancestor]) -> str:
    """Return the chain as indented text, one line per link: name, digest, step, commit and place."""
    return "\n".join(_line(ancestor) for ancestor in chain)


def _walk(ancestor: Ancestor, root: Storage, chain: list[Ancestor]) -> None:
    seen = {earlier.digest for earlier in chain}
    if ancestor.digest in seen:
        chain.append(Ancestor(ancestor.name, ancestor.depth, ancestor.digest, ancestor.manifest, repeated=True))
        return
    chain.append(ancestor)
    for name, digest in sorted((ancestor.manifest.inputs if ancestor.manifest else {}).items()):
        _walk(Ancestor(name, ancestor.depth + 1, digest, _stored(root, digest)), root, chain)


def _stored(root: Storage, digest: str) -> Manifest | None:
    for kind in get_args(Kind):
        key = f"{store_key(kind, digest)}/{MANIFEST_NAME}"
        try:
            return Manifest.from_json(root.get_bytes(key).decode(), root.uri(key))
        except MissingError:
            continue
    return None


def _line(ancestor: Ancestor) -> str:
    head = f"{'  ' * ancestor.depth}{ancestor.name} {ancestor.digest[:16]}"
    if ancestor.manifest is None:
        return f"{head}  (no longer stored)"
    if ancestor.repeated:
        return f"{head}  (see above)"
    made_by = ancestor.manifest.produced_by
    return f"{head}  {made_by.step} at commit {made_by.git_commit[:12]}  {ancestor.manifest.uri}"
