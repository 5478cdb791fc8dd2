"""Downloads one file over HTTP(S); an interrupted download goes on where it stopped."""

import http.client
import os
import random
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from components.contracts.errors import MissingError, StorageError, UserError
from components.storage.progress import ByteProgress

ATTEMPTS_WITHOUT_PROGRESS = 5
FIRST_BACK_OFF_S = 0.5
TIMEOUT_S = 60.0
_CHUNK_BYTES = 1 << 20
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """The attempt failed in a way that another one may mend."""


def download(url: str, folder: Path) -> Path:
    """Return the file in `folder` with the bytes at `url`, complete by the server's own count.

    Bytes of an earlier attempt are kept when the server says, by its entity tag, that the file is the same.

    Raises:
        MissingError: the server does not know the file.
        UserError: the address is malformed or access is refused.
        StorageError: the server failed again and again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _file_name(url)
    if target.is_file():
        return target
    partial = target.with_name(f"{target.name}.part")
    failures, have_bytes = 0, _size(partial)
    while True:
        try:
            _attempt(url, partial)
            os.replace(partial, target)
            return target
        except _Interrupted as error:
            failures = 1 if _size(partial) > have_bytes else failures + 1
            have_bytes = _size(partial)
            if failures >= ATTEMPTS_WITHOUT_PROGRESS:
                raise StorageError(f"{_shown(url)} failed {failures} times without progress: {error}") from error
            time.sleep(FIRST_BACK_OFF_S * 2 ** (failures - 1) * random.uniform(0.5, 1.0))


def _attempt(url: str, partial: Path) -> None:
    tag_file = partial.with_name(f"{partial.name}.etag")
    start = _size(partial) if tag_file.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag_file.read_text(encoding="utf-8")}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            goes_on = response.status == 206
            tag = response.headers.get("ETag", "")
            if not goes_on:
                tag_file.write_text(tag, encoding="utf-8") if tag else tag_file.unlink(missing_ok=True)
            _receive(response, partial, start if goes_on else 0)
    except urllib.error.HTTPError as error:
        _judge(error, url, partial)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Interrupted(str(error)) from error
    except ValueError as error:
        raise UserError(f"{_shown(url)} is no web address: {error}") from None
    tag_file.unlink(missing_ok=True)


def _receive(response: http.client.HTTPResponse, partial: Path, start: int) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else 0
    with partial.open("ab" if start else "wb") as file, ByteProgress(f"download {partial.stem}", total) as progress:
        progress.advance(start)
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            progress.advance(len(chunk))
    if length and _size(partial) != total:
        raise _Interrupted(f"{_size(partial)} of {total} bytes came")


def _judge(error: urllib.error.HTTPError, url: str, partial: Path) -> None:
    if error.code in (404, 410):
        raise MissingError(f"{_shown(url)} does not exist (HTTP {error.code})", remedy="check the address") from None
    if error.code == 416:
        partial.unlink(missing_ok=True)
    if error.code == 416 or error.code in _TRANSIENT_STATUS:
        raise _Interrupted(f"HTTP {error.code}") from None
    raise UserError(
        f"{_shown(url)} is refused (HTTP {error.code})", remedy="check the address and its access"
    ) from None


def _file_name(url: str) -> str:
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return name if name not in ("", ".", "..") and "\0" not in name else "download"


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
