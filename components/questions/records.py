"""Rows of question files as plain mappings: JSON lines, plain or gzipped, and the ready-made Parquet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from components.contracts.errors import QuestionError

SET_COLUMN = "data_source"
"""Names the set of a row in a Parquet file, which holds the rows of several sets."""
_COLUMNS = ("id", "question", "golden_answers", "metadata", SET_COLUMN, "reward_model")
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that is no question, and why."""

    reason: str


def read_records(path: Path, set_name: str) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    """Yield (line or row number from 1, record) for every row of `path` that belongs to the set.

    Blank lines are passed over. A file of JSON lines holds one set; of a Parquet file with a `data_source`
    column only the rows of `set_name` are read.

    Raises:
        QuestionError: the file as a whole cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        try:
            if head == b"PAR1":
                yield from _parquet_records(path, file, set_name)
            elif head.startswith(b"\x1f\x8b"):
                yield from _json_records(gzip.GzipFile(fileobj=file))
            else:
                yield from _json_records(file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _damaged(path, error) from None


@lru_cache(maxsize=64)
def sets_of_parquet(path: Path) -> frozenset[str]:
    """Return the sets whose rows a Parquet file holds by its `data_source` column; none when it has no such column.

    Raises:
        QuestionError: the file is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            if SET_COLUMN not in table.schema_arrow.names:
                return frozenset()
            return frozenset(table.read(columns=[SET_COLUMN])[SET_COLUMN].unique().to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _parquet_records(path: Path, file: BinaryIO, set_name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [name for name in _COLUMNS if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for record in batch.to_pylist():
                number += 1
                if record.get(SET_COLUMN, set_name) == set_name:
                    yield number, _without_nulls(record)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _without_nulls(record: dict[str, Any]) -> dict[str, Any]:
    """Return the row as JSON would hold it: a column that other rows need is absent here, not null."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in record.items()
        if value is not None
    }


def _json_records(lines: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | Malformed:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Malformed(f"not JSON: {error}")
    return record if isinstance(record, dict) else Malformed(f"not an object but {type(record).__name__}")


def _damaged(path: Path, error: Exception) -> QuestionError:
    return QuestionError(f"{path} is damaged: {error}", remedy="download it again")
