"""Whether files are what a manifest says; large ones found right once are not read again until they change."""

import hashlib
import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.contracts.manifest import FileEntry
from components.storage.local import disk
from components.storage.progress import ByteProgress

SMALLEST_REMEMBERED_BYTES = 64 << 20
"""Smaller files are read every time: that takes less than a second."""
_SETTLED_S = 2.0
"""So young a file could change without a new time of modification, on file systems that count coarsely."""
_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream, ByteProgress(f"checksum {path.name}", path.stat().st_size) as progress:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            progress.advance(len(chunk))
    return digest.hexdigest()


def size_problem(entry: FileEntry, size: int) -> str:
    """Return the sentence that says what is wrong with a size."""
    return f"{entry.path} has {size} bytes instead of {entry.size}"


class Verification:
    """Checks files of one folder; with a `record` it knows those that were right in an earlier process.

    A file is known by its size, time of modification and inode: bytes that change with none of these (a failing
    disk) go unnoticed until the record is deleted. An unreadable record counts as none.
    """

    def __init__(self, folder: Path, record: Path | None = None) -> None:
        self._folder, self._record = folder, record
        self._known = _read(record) if record else {}
        self._is_changed = False

    def problem_with(self, entry: FileEntry) -> str:
        """Return what is wrong with one file, or an empty string when nothing is.

        Raises:
            UserError: the file cannot be read.
            StorageError: the disk is broken.
        """
        path = self._folder / entry.path
        if not path.is_file():
            return f"{entry.path} is missing"
        if not path.resolve().is_relative_to(self._folder.resolve()):
            return f"{entry.path} is a link out of its folder"
        with disk(path):
            state, started_s = _state(path, entry), time.time()
            if state["size"] != entry.size:
                return size_problem(entry, state["size"])
            if entry.size >= SMALLEST_REMEMBERED_BYTES and self._known.get(entry.path) == state:
                return ""
            if sha256_of(path) != entry.sha256:
                return f"{entry.path} has changed (its SHA-256 differs)"
            is_settled = started_s - state["modified_ns"] / 1e9 > _SETTLED_S
            if entry.size >= SMALLEST_REMEMBERED_BYTES and is_settled and _state(path, entry) == state:
                self._known[entry.path] = state
                self._is_changed = True
        return ""

    def save(self) -> None:
        """Keep what was found right for later processes, where the place of the record can be written."""
        if self._record is None or not self._is_changed:
            return
        unfinished = self._record.with_name(f".{self._record.name}.{uuid.uuid4().hex}")
        # Without a record the next process reads the files again: slower, never wrong.
        with suppress(OSError):
            self._record.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(self._known, sort_keys=True), encoding="utf-8")
            os.replace(unfinished, self._record)


def _state(path: Path, entry: FileEntry) -> dict[str, Any]:
    stat = path.stat()
    return {"sha256": entry.sha256, "size": stat.st_size, "modified_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _read(record: Path) -> dict[str, Any]:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
