"""Publish a folder under its content digest, and fetch it back verified.

`<storage_root>/store/<kind>/<digest[:16]>/` holds the files and, written last, `manifest.json`: a prefix
without it is unfinished and counts for nothing. Equal content has one prefix, however often it is made.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.contracts.errors import ManifestError, MissingError, UserError
from components.contracts.manifest import FileEntry, Kind, Manifest, ProducedBy, content_digest
from components.storage.cache import cache_folder, download, record_of_stored
from components.storage.local import LocalStorage, disk
from components.storage.open import open_storage
from components.storage.protocol import Storage, checked_key
from components.storage.verification import Verification, sha256_of, size_problem

MANIFEST_NAME = "manifest.json"
_REDO = "delete the prefix and run the step that makes it again, without the cache"
_NAMED_PROBLEMS = 5


def store_key(kind: str, digest: str) -> str:
    """Return the key of a kind's content below the storage root."""
    return f"store/{kind}/{digest[:16]}"


def publish(
    folder: Path,
    *,
    storage_root: str,
    kind: Kind,
    produced_by: ProducedBy,
    inputs: dict[str, Manifest] | None = None,
    counts: dict[str, float] | None = None,
    metadata: dict[str, Any] | None = None,
    mlflow: dict[str, str] | None = None,
) -> Manifest:
    """Store every file below `folder` and return the manifest that points to them.

    The folder is given away: where the storage root is on its file system the files are moved, so read
    them afterwards from `fetch(manifest)`. Publishing equal content again stores nothing twice and
    renews `manifest.json`.

    Raises:
        MissingError: the folder does not exist.
        UserError: it holds a link or a `manifest.json` of its own, or the storage root is not writable.
        StorageError: the storage refuses.
    """
    files = [_entry(folder, path) for path in _files_of(folder)]
    digest = content_digest(files)
    root = open_storage(storage_root)
    key = store_key(kind, digest)
    manifest = Manifest(
        kind=kind,
        uri=root.uri(key),
        files=tuple(files),
        digest=digest,
        produced_by=produced_by,
        inputs={name: source.digest for name, source in (inputs or {}).items()},
        counts=counts or {},
        metadata=metadata or {},
        mlflow=mlflow or {},
    )
    _store_files(root, key, folder, files)
    root.put_bytes(manifest.to_json().encode(), f"{key}/{MANIFEST_NAME}")
    return manifest


def fetch(
    manifest: Manifest, cache_root: Path | None = None, wanted: Callable[[str], bool] = lambda path: True
) -> Path:
    """Return a local folder that holds the manifest's files, each verified by size and SHA-256.

    For `file://` it is the stored folder itself: read only. For `s3://` the files are downloaded once
    into `cache_root` (unless given: `$SEARCHR1_CACHE`, else `~/.cache/searchr1`) under their digest,
    however many processes ask at the same time. Files whose path is not `wanted` are neither downloaded
    nor verified. Large files that were verified before and have not changed are not read again.

    Raises:
        ManifestError: a file is missing, changed, or named so that it could leave the folder.
        StorageError: the storage refuses.
    """
    _check_list(manifest)
    files = [entry for entry in manifest.files if wanted(entry.path)]
    storage, cache = open_storage(manifest.uri), cache_folder(cache_root)
    if isinstance(storage, LocalStorage):
        folder = storage.root
        _verify_files(manifest, files, folder, record_of_stored(folder, cache))
    else:
        folder = cache / manifest.kind / manifest.digest[:16]
        _refuse(manifest, download(manifest, storage, files, folder, _REDO))
    return folder


def read_manifest(place: str) -> Manifest:
    """Return the manifest at a path or URI, of the file itself or of the folder it lies in.

    Raises:
        MissingError: there is none.
        ManifestError: it is malformed.
        UserError: the URI names no storage.
        StorageError: the storage refuses.
    """
    uri = place if "://" in place else f"file://{Path(place).resolve()}"
    folder, _, name = uri.rstrip("/").rpartition("/")
    if not name.endswith(".json"):
        folder, name = f"{folder}/{name}", MANIFEST_NAME
    return Manifest.from_json(open_storage(folder).get_bytes(name).decode(), f"{folder}/{name}")


def verify(manifest: Manifest, folder: Path) -> None:
    """Check that `folder` holds every file of the manifest, by size and SHA-256; more files may lie there.

    Raises:
        ManifestError: a file is missing, changed, or named so that it could leave the folder.
    """
    _check_list(manifest)
    _verify_files(manifest, manifest.files, folder)


def check_stored(manifest: Manifest) -> None:
    """Check without reading any file that all are stored at the manifest's URI with the right size.

    Raises:
        ManifestError: a file is missing, of another size, or named so that it could leave the folder.
        StorageError: the storage refuses.
    """
    _check_list(manifest)
    sizes = {info.key: info.size for info in open_storage(manifest.uri).list()}
    problems = [f"{entry.path} is missing" for entry in manifest.files if entry.path not in sizes]
    for entry in manifest.files:
        if (size := sizes.get(entry.path, entry.size)) != entry.size:
            problems.append(size_problem(entry, size))
    _refuse(manifest, problems)


def _verify_files(manifest: Manifest, files: Sequence[FileEntry], folder: Path, record: Path | None = None) -> None:
    verification = Verification(folder, record)
    problems = [problem for entry in files if (problem := verification.problem_with(entry))]
    verification.save()
    _refuse(manifest, problems)


def _files_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MissingError(f"The folder {folder} does not exist")
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a link", allowed="regular files", remedy="copy what it points to")
    if folder / MANIFEST_NAME in paths:
        raise UserError(f"{folder} holds a {MANIFEST_NAME}, a name kept for the storage", remedy="rename the file")
    return [path for path in paths if path.is_file()]


def _entry(folder: Path, path: Path) -> FileEntry:
    with disk(path):
        return FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256_of(path))


def _store_files(root: Storage, key: str, folder: Path, files: list[FileEntry]) -> None:
    # On a disk moving is free and mends whatever lies there; elsewhere a stored object of the right size
    # below a content digest is an earlier upload of the same bytes.
    stored = {} if isinstance(root, LocalStorage) else {info.key: info.size for info in root.list(key)}
    for entry in files:
        target = f"{key}/{entry.path}"
        if stored.get(target) != entry.size:
            root.take_file(folder / entry.path, target)


def _check_list(manifest: Manifest) -> None:
    if content_digest(manifest.files) != manifest.digest:
        raise ManifestError(f"The manifest of {manifest.uri} lists other files than its digest says", remedy=_REDO)
    for entry in manifest.files:
        checked_key(entry.path)


def _refuse(manifest: Manifest, problems: list[str]) -> None:
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        named = "; ".join(problems[:_NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise ManifestError(f"{manifest.uri} is damaged: {named}", remedy=_REDO)
