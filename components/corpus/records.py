"""Reads passages from JSONL, gzipped JSONL and Parquet files, one at a time, whatever the files are called."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from components.contracts.errors import CorpusError
from components.contracts.passage import Passage
from components.storage.progress import ByteProgress

MAX_LINE_BYTES = 16 << 20
ALLOWED = 'JSON lines {"id", "contents"} or {"id", "title", "text"}, plain or gzipped, or Parquet with these columns'
_ROWS_AT_ONCE = 4096
_TAR_MAGIC = slice(257, 262)
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
}


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that is no passage, and why."""

    reason: str


def read_passages(path: Path) -> Iterator[tuple[int, Passage | Malformed]]:
    """Yield (line or row number from 1, passage or what is wrong with it) for every record of `path`.

    Raises:
        CorpusError: the file as a whole cannot be read: an archive, a damaged file, missing columns.
    """
    with path.open("rb") as file, ByteProgress(f"read {path.name}", path.stat().st_size) as progress:
        match _format(path, file):
            case "parquet":
                records = _parquet_records(path, file)
            case "gzip":
                records = _json_records(gzip.GzipFile(fileobj=file))
            case "text":
                records = _json_records(file)
        seen_bytes = 0
        try:
            for number, record in records:
                yield number, record if isinstance(record, Malformed) else _passage(record)
                if number % 1000 == 0:
                    progress.advance(file.tell() - seen_bytes)
                    seen_bytes = file.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise CorpusError(f"{path} is damaged: {error}", remedy="download it again") from None


def _format(path: Path, file: BinaryIO) -> str:
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x1f\x8b"):
        try:
            inside = zlib.decompressobj(wbits=31).decompress(head, 512)
        except zlib.error as error:
            raise CorpusError(f"{path} is damaged: {error}", remedy="download it again") from None
        if inside[_TAR_MAGIC] == b"ustar":
            raise _refusal(path, "a tar archive compressed with gzip", "unpack it (tar -xzf) and name the file inside")
        return "gzip"
    if head[_TAR_MAGIC] == b"ustar":
        raise _refusal(path, "a tar archive", "unpack it (tar -xf) and name the file inside")
    for magic, meaning in _FOREIGN.items():
        if head.startswith(magic):
            raise _refusal(path, meaning, "unpack it")
    return "text"


def _refusal(path: Path, meaning: str, remedy: str) -> CorpusError:
    return CorpusError(f"{path} is {meaning} (by its first bytes, whatever its name says)", ALLOWED, remedy)


def _json_records(lines: BinaryIO) -> Iterator[tuple[int, Any]]:
    number = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = lines.readline(MAX_LINE_BYTES)
            yield number, Malformed(f"the line is longer than {MAX_LINE_BYTES} bytes")
        elif line.strip():
            yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Malformed(f"not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return Malformed(f"not JSON: {error.msg} at column {error.pos + 1}")
    except (RecursionError, ValueError) as error:
        return Malformed(f"not JSON: {error}")


def _parquet_records(path: Path, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = set(table.schema_arrow.names)
        if "id" not in names or not names & {"contents", "text"}:
            raise CorpusError(
                f"{path} has the columns {', '.join(sorted(names))}", "id and contents, or id, title, text"
            )
        number = 0
        columns = sorted(names & {"id", "contents", "title", "text"})
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path} is damaged: {error}", remedy="download it again") from None


def _passage(record: Any) -> Passage | Malformed:
    if not isinstance(record, dict):
        return Malformed(f"not an object but {type(record).__name__}")
    given = record.get("id")
    if not isinstance(given, str | int) or isinstance(given, bool) or not str(given).strip():
        return Malformed("no id (a text or a whole number)")
    contents = record.get("contents")
    if contents is None:
        title, text = record.get("title") or "", record.get("text")
        if not isinstance(text, str) or not isinstance(title, str):
            return Malformed("neither contents nor title and text as texts")
        contents = f'"{_one_line(title)}"\n{text}' if title.strip() else _one_line(text)
        visible = text
    elif isinstance(contents, str):
        visible = contents
    else:
        return Malformed(f"contents is not a text but {type(contents).__name__}")
    if not any(character > " " and not character.isspace() for character in visible):
        return Malformed("the text is empty")
    try:
        (str(given) + contents).encode()
    except UnicodeEncodeError:
        return Malformed("holds half of a surrogate pair")
    return Passage(str(given), contents)


def _one_line(text: str) -> str:
    """Return `text` in one line: only a title may stand before a passage's first line break."""
    return " ".join(text.splitlines())
