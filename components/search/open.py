"""From an index manifest to the searcher that answers from it: in this process, or a service that holds that index."""

import os
from pathlib import Path

from components.contracts.errors import ConfigError, ManifestError
from components.contracts.manifest import Manifest
from components.search.concurrent import ConcurrentSearch
from components.search.config import SearchConfig, retriever_urls
from components.search.http_client import HttpSearcher
from components.search.lucene import LuceneSearcher
from components.search.protocol import Searcher
from components.storage import fetch

LUCENE_FOLDER = "lucene"
"""Folder of the Lucene files below an index manifest's URI."""
RETRIEVER_VARIABLE = "SEARCHR1_RETRIEVER_URL"
"""Environment variable with the address of a retriever that serves this run's index."""


def searcher_for(manifest: Manifest, config: SearchConfig) -> Searcher:
    """Return a searcher that answers from the index of `manifest`, where `config` says it is.

    A service is waited for until it is ready, and refused when it serves another index.

    Raises:
        ConfigError: the service serves another index or does not say which.
        SearchError: the service is not ready in time, or the engine does not start.
        ManifestError: the manifest is not of an index, of an unknown index kind, or its files are damaged.
        StorageError: the storage refuses.
    """
    given = config.retriever_url or os.environ.get(RETRIEVER_VARIABLE, "")
    if not retriever_urls(given):
        return open_searcher(manifest)
    _check_kind(manifest)
    # The address in the environment has not been checked yet.
    config = SearchConfig.parse(config.model_dump() | {"retriever_url": given}, where="search")
    searcher = HttpSearcher(
        retriever_urls(config.retriever_url),
        manifest.digest,
        accept_unnamed=not config.require_digest,
        timeout_s=config.request_timeout_s,
    )
    searcher.wait_until_ready(config.ready_timeout_s, lambda text: print(text, flush=True))
    return searcher


def search_client(searcher: Searcher, config: SearchConfig, top_k: int, cache_size: int = 65536) -> ConcurrentSearch:
    """Return the client through which a search loop asks `searcher`; the caller closes it.

    A service may be away for a while: it is asked again for as long as `config` says.
    """
    if isinstance(searcher, HttpSearcher):
        return ConcurrentSearch(
            searcher, top_k, deadline_s=config.deadline_s, retries=config.retries, cache_size=cache_size
        )
    return ConcurrentSearch(searcher, top_k, cache_size=cache_size)


def check_reachable(config: SearchConfig, num_nodes: int) -> None:
    """Find an address that cannot mean the same on every node.

    Raises:
        ConfigError: the retriever is on this machine and there are others.
    """
    if num_nodes > 1 and config.is_loopback:
        raise ConfigError(
            f"search.retriever_url = {config.retriever_url!r} is this machine, and {num_nodes} nodes would each ask "
            "themselves",
            allowed="an address that all nodes reach, or none",
        )


def open_searcher(manifest: Manifest, cache_root: Path | None = None) -> Searcher:
    """Return a searcher of this process over the index that `manifest` points to, its files fetched and verified.

    Raises:
        ManifestError: the manifest is not of an index, of an unknown index kind, or its files are damaged.
        StorageError: the storage refuses.
        SearchError: the engine does not start.
    """
    _check_kind(manifest)
    match manifest.metadata.get("index_kind"):
        case "bm25":
            folder = fetch(manifest, cache_root) / LUCENE_FOLDER
            return LuceneSearcher(folder, manifest.digest, k1=manifest.metadata["k1"], b=manifest.metadata["b"])
        case unknown:
            raise ManifestError(f"The index at {manifest.uri} is of kind {unknown!r}", "bm25", "update this program")


def _check_kind(manifest: Manifest) -> None:
    if manifest.kind != "index":
        raise ManifestError(f"The manifest at {manifest.uri} is of kind {manifest.kind!r}", "index")
