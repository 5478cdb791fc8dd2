"""Turns source files into wiki-18 JSONL files: one passage a line, `{"id", "contents"}`, ids unique."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from components.contracts.errors import CorpusError
from components.contracts.passage import Passage
from components.corpus.identifiers import SeenIds, SuspectIds
from components.corpus.records import ALLOWED, Malformed, read_passages

SHOWN_PROBLEMS = 20
_GIVE_UP_AFTER = 100_000


@dataclass
class Tally:
    """What came out of the conversion."""

    num_passages: int = 0
    num_malformed: int = 0
    num_characters: int = 0
    problems: list[str] = field(default_factory=list)
    """The first malformed lines: file, line number, reason."""

    def note(self, path: Path, number: int, problem: Malformed) -> None:
        """Count a malformed line and keep the first ones."""
        self.num_malformed += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(f"{path.name}, line {number}: {problem.reason}")

    def report(self) -> str:
        """Return the count and the kept lines as text."""
        more = self.num_malformed - len(self.problems)
        lines = [f"{self.num_malformed} malformed lines:", *self.problems]
        return "\n  ".join(lines + [f"and {more} more"] * (more > 0))


def convert(files: list[Path], folder: Path, max_malformed_lines: int, passages_per_file: int) -> Tally:
    """Write the passages of `files`, in order, to `corpus.jsonl` or `corpus-00000.jsonl` ... in `folder`.

    Raises:
        CorpusError: more lines are malformed than tolerated, an id occurs twice, or there is no passage.
    """
    tally, seen = Tally(), SeenIds()
    with _Writer(folder, passages_per_file) as writer:
        for path in files:
            for number, record in read_passages(path):
                if isinstance(record, Malformed):
                    tally.note(path, number, record)
                    if tally.num_malformed > max_malformed_lines + _GIVE_UP_AFTER:
                        raise _too_many(tally, max_malformed_lines)
                    continue
                seen.add(record.id)
                writer.write(record)
                tally.num_passages += 1
                tally.num_characters += len(record.contents)
    if tally.num_malformed > max_malformed_lines:
        raise _too_many(tally, max_malformed_lines)
    if not tally.num_passages:
        raise CorpusError("The corpus is empty", ALLOWED, "check the source")
    if suspects := seen.suspects():
        _refuse_duplicates(files, suspects)
    return tally


def _too_many(tally: Tally, tolerated: int) -> CorpusError:
    return CorpusError(
        tally.report(),
        ALLOWED,
        f"mend the source, or raise max_malformed_lines (now {tolerated}) to leave such lines out",
    )


def _refuse_duplicates(files: list[Path], suspects: SuspectIds) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in files:
        for number, record in read_passages(path):
            if isinstance(record, Passage) and record.id in suspects:
                places[record.id].append(f"{path.name}, line {number}")
    twice = [f"id {name!r}: {'; '.join(found[:3])}" for name, found in places.items() if len(found) > 1]
    if twice:
        shown = "\n  ".join([f"{len(twice)} ids occur more than once:", *twice[:SHOWN_PROBLEMS]])
        raise CorpusError(shown, "unique ids", "give every passage an id of its own")


class _Writer:
    def __init__(self, folder: Path, passages_per_file: int) -> None:
        self._folder, self._passages_per_file = folder, passages_per_file
        self._paths: list[Path] = []
        self._file: BinaryIO | None = None
        self._num_in_file = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        if len(self._paths) == 1:
            self._paths[0].rename(self._folder / "corpus.jsonl")

    def write(self, passage: Passage) -> None:
        if self._file is None or self._num_in_file == self._passages_per_file:
            if self._file:
                self._file.close()
            self._paths.append(self._folder / f"corpus-{len(self._paths):05d}.jsonl")
            self._file, self._num_in_file = self._paths[-1].open("wb"), 0
        row = {"id": passage.id, "contents": passage.contents}
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._num_in_file += 1
