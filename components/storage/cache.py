"""The folder of this machine that keeps downloads, shared by all processes that see it.

`<cache>/<kind>/<digest[:16]>/` holds the files. One process at a time fills it, under the lock beside it; the others
wait and find the work done. What a killed process left half loaded is removed by the next one.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from components.contracts.errors import ManifestError, MissingError
from components.contracts.manifest import FileEntry, Manifest
from components.storage.protocol import Storage
from components.storage.verification import Verification

CACHE_VARIABLE = "SEARCHR1_CACHE"
"""Environment variable naming the folder."""
_ASK_AGAIN_S = 0.2


def cache_folder(given: Path | None = None) -> Path:
    """Return the cache: `given`, else `$SEARCHR1_CACHE`, else `~/.cache/searchr1`."""
    if given or (named := os.environ.get(CACHE_VARIABLE)):
        return given or Path(named)
    try:
        return Path.home() / ".cache" / "searchr1"
    except RuntimeError:
        # A container may run as a user that its image does not know.
        return Path(tempfile.gettempdir()) / "searchr1-cache"


def record_beside(folder: Path) -> Path:
    """Return the file that remembers which files of a cached folder were verified."""
    return folder.with_name(f"{folder.name}.verified.json")


def record_of_stored(folder: Path, cache: Path) -> Path:
    """Return the same for a folder that is used where it is stored, which may not be writable."""
    return cache / "verified" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.json"


def download(manifest: Manifest, storage: Storage, files: Sequence[FileEntry], folder: Path, remedy: str) -> list[str]:
    """Bring `files` of the manifest into `folder` unless they are there, and return what is wrong with them then.

    Raises:
        ManifestError: a file is missing in the storage.
        UserError: the folder cannot be written and files are missing.
        StorageError: the storage refuses.
    """
    with _sole_use(folder) as is_sole:
        verification = Verification(folder, record_beside(folder))
        wrong = [entry for entry in files if verification.problem_with(entry)]
        if wrong and is_sole:
            _remove_leftovers(manifest, folder)
        for entry in wrong:
            try:
                storage.get_file(entry.path, folder / entry.path)
            except MissingError as error:
                raise ManifestError(f"{storage.uri(entry.path)} is missing", remedy=remedy) from error
        problems = [problem for entry in wrong if (problem := verification.problem_with(entry))]
        verification.save()
    return problems


@contextmanager
def _sole_use(folder: Path) -> Iterator[bool]:
    """Let one process at a time into the block; gives False where the cache can be read only."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that fills {folder}", flush=True)
            lock.acquire(poll_interval=_ASK_AGAIN_S)
    except (OSError, NotImplementedError):
        # A filled cache serves without a lock; an empty one fails at its first file, with the reason.
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _remove_leftovers(manifest: Manifest, folder: Path) -> None:
    known = {entry.path for entry in manifest.files}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink(missing_ok=True)
