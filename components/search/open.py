"""From an index manifest to the searcher that answers from it."""

from pathlib import Path

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.search.lucene import LuceneSearcher
from components.search.protocol import Searcher
from components.storage import fetch

LUCENE_FOLDER = "lucene"
"""Folder of the Lucene files below an index manifest's URI."""


def open_searcher(manifest: Manifest, cache_root: Path | None = None) -> Searcher:
    """Return a searcher over the index that `manifest` points to, its files fetched and verified.

    Raises:
        ManifestError: the manifest is not of an index, of an unknown index kind, or its files are damaged.
        StorageError: the storage refuses.
        SearchError: the engine does not start.
    """
    if manifest.kind != "index":
        raise ManifestError(f"The manifest at {manifest.uri} is of kind {manifest.kind!r}", "index")
    match manifest.metadata.get("index_kind"):
        case "bm25":
            folder = fetch(manifest, cache_root) / LUCENE_FOLDER
            return LuceneSearcher(folder, manifest.digest, k1=manifest.metadata["k1"], b=manifest.metadata["b"])
        case unknown:
            raise ManifestError(f"The index at {manifest.uri} is of kind {unknown!r}", "bm25", "update this program")
