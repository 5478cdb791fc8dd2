"""Worlds as their readers see them: files on a disk, and facts read back from the documents' text."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from components.fictional_world.names import first_words, last_words
from components.fictional_world.relations import RELATIONS
from components.fictional_world.writer import write_world

SEVEN_SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
_FIRST, _LAST = set(first_words()), set(last_words())


def names_in(text: str) -> set[str]:
    """Every first word of a name that is followed by a last one."""
    words = re.findall(r"\w+", text)
    return {f"{a} {b}" for a, b in pairwise(words) if a in _FIRST and b in _LAST}


@dataclass(frozen=True)
class WrittenWorld:
    folder: Path
    documents: dict[str, str]
    """Title -> text, as the corpus has them."""
    facts: dict[str, dict[str, str]]
    """Title -> relation -> object, read from the text."""
    types: dict[str, str]

    def rows(self, name: str, split: str = "test") -> list[dict]:
        path = self.folder / "questions" / name / f"{split}.jsonl"
        return [json.loads(line) for line in path.open()]


def read_back(folder: Path) -> WrittenWorld:
    documents, facts, types = {}, {}, {}
    for line in (folder / "corpus.jsonl").open():
        title, text = json.loads(line)["contents"].split("\n")
        name = title.strip('"')
        documents[name] = text
        first, *sentences = text.removesuffix(".").split(". ")
        types[name] = first.removeprefix(f"{name} is a ")
        facts[name] = dict(read_sentence(sentence, types[name]) for sentence in sentences)
    return WrittenWorld(folder, documents, facts, types)


def read_sentence(sentence: str, subject_type: str) -> tuple[str, str]:
    for relation in RELATIONS:
        for wording in relation.statements:
            found = re.fullmatch("it " + wording.format(o=r"(\w+ \w+)"), sentence)
            if found and relation.subject == subject_type:
                return relation.name, found.group(1)
    raise AssertionError(f"no statement of a {subject_type}: {sentence!r}")


@pytest.fixture(scope="session")
def find_names() -> Callable[[str], set[str]]:
    return names_in


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> WrittenWorld:
    folder = tmp_path_factory.mktemp("small")
    write_world(folder, size="small", seed=7)
    return read_back(folder)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
