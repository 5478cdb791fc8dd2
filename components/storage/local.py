"""Storage in a folder of this machine's file system (`file:///...`)."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.contracts.errors import MissingError, SearchR1Error, StorageError, UserError
from components.storage.protocol import ObjectInfo, checked_key, folder_key

_UNFINISHED = ".part"
_FOR_A_PERSON = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)


class LocalStorage:
    """Implements `Storage`; files appear by rename, flushed to the disk before they get their name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_file(self, local: Path, key: str) -> None:
        """See `Storage`."""
        with self._new_file(key) as unfinished, disk(local):
            shutil.copyfile(local, unfinished)

    def take_file(self, local: Path, key: str) -> None:
        """See `Storage`; renames on the same file system, copies from another."""
        target = self.path(key)
        with disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush(local)
            try:
                os.replace(local, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.put_file(local, key)
            _flush(target.parent)

    def put_bytes(self, data: bytes, key: str, if_absent: bool = False) -> bool:
        """See `Storage`."""
        try:
            with self._new_file(key, if_absent) as unfinished:
                unfinished.write_bytes(data)
        except _KeyTaken:
            return False
        return True

    def get_file(self, key: str, local: Path) -> None:
        """See `Storage`."""
        source = self._existing(key)
        with disk(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            unfinished = _unfinished_beside(local)
            shutil.copyfile(source, unfinished)
            os.replace(unfinished, local)

    def get_bytes(self, key: str) -> bytes:
        """See `Storage`."""
        with disk(self.path(key)):
            return self._existing(key).read_bytes()

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `Storage`."""
        folder = self.root / folder_key(prefix) if prefix else self.root
        found = []
        with disk(folder):
            # Files and folders may go meanwhile: what is left is the answer.
            for parent, _, names in os.walk(folder, onerror=_raise_unless_gone):
                for path in (Path(parent, name) for name in names):
                    with suppress(FileNotFoundError):
                        if path.suffix != _UNFINISHED and path.is_file():
                            found.append(self._info(path))
        return sorted(found, key=lambda info: info.key)

    def info(self, key: str) -> ObjectInfo:
        """See `Storage`."""
        with disk(self.path(key)):
            return self._info(self._existing(key))

    def exists(self, key: str) -> bool:
        """See `Storage`."""
        return self.path(key).is_file()

    def delete(self, key: str) -> None:
        """See `Storage`."""
        with disk(self.path(key)):
            self.path(key).unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """See `Storage`."""
        folder = self.root / folder_key(prefix)
        with disk(folder):
            if folder.is_dir():
                shutil.rmtree(folder)

    def uri(self, key: str = "") -> str:
        """See `Storage`."""
        return f"file://{self.root / key}"

    def path(self, key: str) -> Path:
        """Return the file that holds `key`.

        Raises:
            ManifestError: the key could point outside the root.
        """
        return self.root / checked_key(key)

    def _existing(self, key: str) -> Path:
        path = self.path(key)
        if not path.is_file():
            raise MissingError(f"{self.uri(key)} does not exist", remedy="run the step that makes it")
        return path

    def _info(self, path: Path) -> ObjectInfo:
        stat = path.stat()
        return ObjectInfo(
            path.relative_to(self.root).as_posix(), stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}", stat.st_mtime
        )

    @contextmanager
    def _new_file(self, key: str, if_absent: bool = False) -> Iterator[Path]:
        target = self.path(key)
        with disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = _unfinished_beside(target)
            try:
                yield unfinished
                _flush(unfinished)
                if if_absent:
                    _link_new(unfinished, target)
                else:
                    os.replace(unfinished, target)
                _flush(target.parent)
            finally:
                unfinished.unlink(missing_ok=True)


class _KeyTaken(SearchR1Error):
    """The key of a write with `if_absent` exists."""


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn operating-system errors around `path` into ours.

    Raises:
        MissingError: a file does not exist.
        UserError: the path is not writable or readable, or a file stands where a folder is needed.
        StorageError: the disk is full or broken.
    """
    try:
        yield
    except SearchR1Error:
        raise
    except FileNotFoundError as error:
        raise MissingError(f"{error.filename} does not exist") from error
    except OSError as error:
        if isinstance(error, _FOR_A_PERSON) or error.errno == errno.EROFS:
            raise UserError(
                f"Cannot use {path}: {error.strerror}",
                allowed="a folder this user may write to",
                remedy="change its permissions or choose another storage root",
            ) from error
        raise StorageError(f"{path}: {error.strerror or error}") from error


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error


def _unfinished_beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}{_UNFINISHED}")


def _link_new(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise _KeyTaken(str(target)) from None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
