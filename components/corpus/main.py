"""Corpus step: resolve the source, validate every line, publish wiki-18 JSONL under its content digest."""

import tempfile
from pathlib import Path

from components.contracts.errors import CorpusError, MissingError
from components.contracts.manifest import Manifest
from components.contracts.step import Step, StepContext, StepResult
from components.corpus.config import CorpusConfig
from components.corpus.convert import Tally, convert
from components.fictional_world.uri import SCHEME, world_of_uri
from components.fictional_world.writer import write_world
from components.storage import publish, sha256_of
from components.storage.failures import TaskFailures
from components.storage.source import fetch_source, pinned_uri, public_uri
from components.storage.work import work_folder

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


def run(config: CorpusConfig, context: StepContext) -> StepResult:
    """Return the manifest of the validated corpus; nothing is published when anything is wrong with it."""
    with work_folder(context.work_uri({})) as work, tempfile.TemporaryDirectory(dir=work) as output:
        uri = pinned_uri(config.uri)
        files = _source_files(config, uri, work / "source")
        tally = convert(files, Path(output), config.max_malformed_lines, config.passages_per_file)
        if tally.num_malformed:
            print(f"corpus: left out {tally.report()}", flush=True)
        manifest = publish(
            Path(output),
            storage_root=context.storage_root,
            kind="corpus",
            produced_by=context.produced_by(),
            counts={"passages": tally.num_passages, "malformed_lines": tally.num_malformed},
            metadata={"source": public_uri(uri), "layout": "wiki-18"},
        )
    return StepResult(manifest, card=_card(manifest, tally), metrics=_metrics(manifest, tally))


def _source_files(config: CorpusConfig, uri: str, folder: Path) -> list[Path]:
    if uri.startswith(SCHEME):
        size, seed = world_of_uri(uri)
        write_world(folder, size=size, seed=seed)
        return [folder / "corpus.jsonl"]
    source = fetch_source(uri, folder, lambda name: name.endswith(ENDINGS))
    if source.is_file():
        _check_sha256(source, config.source_sha256)
        return [source]
    if config.source_sha256:
        raise CorpusError("source_sha256 is set but the source is a folder", "a source of one file", "name the file")
    files = sorted(path for path in source.rglob("*") if path.is_file() and path.name.endswith(ENDINGS))
    if not files:
        raise MissingError(f"The folder {source} holds no corpus file", ", ".join(ENDINGS), "check the path")
    return files


def _check_sha256(path: Path, expected: str) -> None:
    if expected and (actual := sha256_of(path)) != expected:
        raise CorpusError(
            f"{path.name} has the SHA-256 {actual}", expected, "pin the right revision, or correct corpus.source_sha256"
        )


def _metrics(manifest: Manifest, tally: Tally) -> dict[str, float]:
    return {
        "passages": tally.num_passages,
        "malformed_lines": tally.num_malformed,
        "size_bytes": sum(entry.size for entry in manifest.files),
        "mean_characters": round(tally.num_characters / tally.num_passages, 1),
    }


def _card(manifest: Manifest, tally: Tally) -> str:
    return (
        f"# Corpus\n\n{tally.num_passages:,} passages from `{manifest.metadata['source']}`, "
        f"{tally.num_malformed} malformed lines left out.\n"
    )


step = Step("corpus", CorpusConfig, run, TaskFailures.of_environment)
