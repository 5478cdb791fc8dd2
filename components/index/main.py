"""Index step: build the index of a corpus with Pyserini, prove it, publish it."""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.contracts.errors import ManifestError
from components.contracts.manifest import Manifest
from components.contracts.step import Step, StepContext, StepResult
from components.index.build import build_lucene_index
from components.index.config import IndexConfig
from components.index.verify import GoldenQuery, ask_golden_queries, verify_count
from components.search.jvm import anserini_jar
from components.search.lucene import LuceneSearcher
from components.search.open import LUCENE_FOLDER
from components.storage import fetch, publish
from components.storage.failures import TaskFailures
from components.storage.work import work_folder

ANALYZER = "Anserini DefaultEnglishAnalyzer: Porter stemmer, English stop words"


def run(config: IndexConfig, context: StepContext, corpus: Manifest) -> StepResult:
    """Return the manifest of the proven index; nothing is published when a proof fails."""
    if corpus.kind != "corpus":
        raise ManifestError(f"The manifest at {corpus.uri} is of kind {corpus.kind!r}", "corpus")
    folder, inputs = fetch(corpus), {"corpus": corpus}
    files = [folder / entry.path for entry in corpus.files]
    with work_folder(context.work_uri(inputs)) as work, tempfile.TemporaryDirectory(dir=work) as scratch:
        output = Path(scratch) / "output"
        output.mkdir()
        build_lucene_index(_collection(files, Path(scratch) / "collection"), output / LUCENE_FOLDER, config)
        golden = _prove(output / LUCENE_FOLDER, files, int(corpus.counts["passages"]), config)
        manifest = publish(
            output,
            storage_root=context.storage_root,
            kind="index",
            produced_by=context.produced_by(),
            inputs=inputs,
            counts={"passages": corpus.counts["passages"]},
            metadata=_metadata(config, golden),
        )
    return StepResult(manifest, card=_card(manifest, golden), metrics=_metrics(manifest, golden))


def _collection(files: list[Path], folder: Path) -> Path:
    """Return a folder with links to `files` alone: Anserini would index the manifest beside them as well."""
    folder.mkdir()
    for path in files:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def _prove(index_folder: Path, files: list[Path], num_passages: int, config: IndexConfig) -> list[GoldenQuery]:
    searcher = LuceneSearcher(index_folder, "", k1=config.k1, b=config.b)
    try:
        verify_count(searcher, num_passages)
        return ask_golden_queries(searcher, files, num_passages, config)
    finally:
        searcher.close()


def _metadata(config: IndexConfig, golden: list[GoldenQuery]) -> dict[str, Any]:
    return {
        "index_kind": config.index_kind,
        "k1": config.k1,
        "b": config.b,
        "analyzer": ANALYZER,
        "pyserini": version("pyserini"),
        "anserini": anserini_jar().name,
        "golden_queries": [entry.as_record() for entry in golden],
    }


def _metrics(manifest: Manifest, golden: list[GoldenQuery]) -> dict[str, float]:
    found = sum(entry.rank > 0 for entry in golden)
    return {
        "passages": manifest.counts["passages"],
        "size_bytes": sum(entry.size for entry in manifest.files),
        "seconds": manifest.produced_by.seconds,
        "golden_found_frac": found / len(golden) if golden else 0.0,
    }


def _card(manifest: Manifest, golden: list[GoldenQuery]) -> str:
    found, size_bytes = sum(entry.rank > 0 for entry in golden), sum(entry.size for entry in manifest.files)
    return (
        f"# Index\n\n{manifest.counts['passages']:,.0f} passages, {size_bytes / 1e6:,.1f} MB, BM25 with "
        f"k1 {manifest.metadata['k1']} and b {manifest.metadata['b']}; built and proven in "
        f"{manifest.produced_by.seconds:.1f} s.\n\n{found} of {len(golden)} drawn passages find themselves.\n"
    )


step = Step("index", IndexConfig, run, TaskFailures.of_environment)
