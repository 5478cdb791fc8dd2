"""Writes a world as an ordinary corpus (wiki-18 JSONL) and ordinary question files (FlashRAG layout)."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from components.contracts.config import nearest
from components.contracts.errors import ConfigError
from components.fictional_world.names import draw_names
from components.fictional_world.questions import WorldQuestion, test_questions, training_questions
from components.fictional_world.world import World, build_world


@dataclass(frozen=True, slots=True)
class WorldSize:
    """How much of a world to write; train, dev and test entities are disjoint."""

    train_entities: int
    dev_entities: int
    test_entities: int
    train_questions: int
    dev_questions: int
    questions_per_set: int


SIZES: dict[str, WorldSize] = {
    "mini": WorldSize(120, 60, 120, 400, 60, 40),
    "small": WorldSize(900, 150, 600, 8_000, 240, 300),
    "medium": WorldSize(6_000, 300, 2_400, 60_000, 400, 2_000),
    "large": WorldSize(6_000, 300, 2_900, 60_000, 400, 12_000),
}
"""`large` has nearly every test name there is and asks about all of them: more than 50,000 test questions."""


def world_size(name: str) -> WorldSize:
    """Return the size called `name`.

    Raises:
        ConfigError: there is no such size.
    """
    if name not in SIZES:
        raise ConfigError(f"World size {name!r} does not exist{nearest(name, list(SIZES))}", ", ".join(SIZES))
    return SIZES[name]


def write_world(folder: Path, *, size: str, seed: int) -> None:
    """Write `corpus.jsonl` and `questions/<set>/{train,dev,test}.jsonl` below `folder`.

    Seven sets have a test file; nq and hotpotqa alone have train and dev files.

    The same size and seed give the same bytes. Dev entities are named from the training split; test
    entities from the test split (see `names.py`).

    Raises:
        ConfigError: `size` is unknown.
    """
    shape = world_size(size)
    rng = random.Random(f"world {size} {seed}")
    train_names, test_names = draw_names("train", rng), draw_names("test", rng)
    train_world = build_world(shape.train_entities, train_names, rng)
    dev_world = build_world(shape.dev_entities, train_names, rng)
    test_world = build_world(shape.test_entities, test_names, rng)
    _write_corpus(folder / "corpus.jsonl", [train_world, dev_world, test_world], rng)
    for split, world, count in (("train", train_world, shape.train_questions), ("dev", dev_world, shape.dev_questions)):
        for name, found in _half_and_half(training_questions(world, rng), count).items():
            _write_questions(folder / "questions" / name / f"{split}.jsonl", found)
    for name, found in test_questions(test_world, shape.questions_per_set, rng).items():
        _write_questions(folder / "questions" / name / "test.jsonl", found)


def _half_and_half(found: list[WorldQuestion], count: int) -> dict[str, list[WorldQuestion]]:
    single = [question for question in found if question.set_name == "nq"][: count // 2]
    bridges = [question for question in found if question.set_name != "nq"][: count - len(single)]
    return {"nq": single, "hotpotqa": bridges}


def _write_corpus(path: Path, worlds: list[World], rng: random.Random) -> None:
    documents = [(name, text) for world in worlds for name, text in world.documents.items()]
    rng.shuffle(documents)
    rows = ({"id": str(i), "contents": f'"{name}"\n{text}'} for i, (name, text) in enumerate(documents))
    _write_jsonl(path, rows)


def _write_questions(path: Path, questions: Iterable[WorldQuestion]) -> None:
    rows = (
        {
            "id": f"{path.stem}_{i}",
            "question": found.question,
            "golden_answers": [found.answer],
            "metadata": {"kind": found.kind, "entities": list(found.entities)},
        }
        for i, found in enumerate(questions)
    )
    _write_jsonl(path, rows)


def _write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
