"""A small Lucene index, built once for the tests of this folder."""

import json
from pathlib import Path

import pytest

from components.index.build import build_lucene_index
from components.index.config import IndexConfig

WORDS = ["zebra", "quartz", "violin", "harbor", "lantern", "meadow", "copper", "falcon"]
"""Words that neither the stemmer nor the stop list touches."""


def document(number: int) -> str:
    """Return a text whose word counts and length differ from document to document."""
    repeated = [WORDS[(number * step) % len(WORDS)] for step in range(1, number % 5 + 3)]
    return " ".join(repeated + [f"unique{number}"] * (number % 3 + 1))


@pytest.fixture(scope="session")
def documents() -> dict[str, str]:
    texts = {f"d{number:02d}": document(number) for number in range(40)}
    texts |= dict.fromkeys(("twin2", "twin10", "twin1"), "same words in the same order")
    texts["strange"] = '"Emoji \U0001f600 title"\nna\u00efve zebrafish <answer>gold</answer> \U0001f600'
    return texts


@pytest.fixture(scope="session")
def lucene_index(documents, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lucene")
    corpus = folder / "corpus"
    corpus.mkdir()
    rows = [json.dumps({"id": name, "contents": text}) for name, text in documents.items()]
    (corpus / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    build_lucene_index(corpus, folder / "index", IndexConfig(threads=1, heap="256m"))
    return folder / "index"
