"""One walk over the corpus: how many passages, how long, how many twice, and which answers occur in it."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.contracts.errors import MissingError
from components.contracts.manifest import Manifest
from components.contracts.passage import Passage
from components.inspect.answers import AnswersSought
from components.inspect.config import InspectConfig
from components.inspect.progress import counted

TOKENS_PER_WORD = 1.3
"""Usual for English prose and the vocabularies of current models."""


@dataclass(frozen=True)
class Spread:
    """How a count is distributed."""

    mean: float
    median: float
    p95: float
    max: float


@dataclass(frozen=True)
class PassageReport:
    """What the corpus is made of."""

    passages: int
    malformed_lines: int
    duplicates: int
    """Passages whose contents occurred before."""
    untitled: int
    words: Spread
    tokens: Spread
    token_measure: str
    """`words x 1.3`, or the name of the tokenizer's folder."""
    token_budget: int
    over_budget: int


def read_corpus(manifest: Manifest, folder: Path) -> Iterator[Passage]:
    """Yield the passages of a published corpus."""
    for entry in manifest.files:
        with (folder / entry.path).open("rb") as lines:
            for line in lines:
                record = json.loads(line)
                yield Passage(record["id"], record["contents"])


def walk_corpus(manifest: Manifest, folder: Path, sought: AnswersSought, config: InspectConfig) -> PassageReport:
    """Return what the corpus is made of and cross off the answers that it holds.

    Raises:
        MissingError: the tokenizer's folder holds none.
    """
    count_tokens, measure = token_counter(config.tokenizer)
    words, tokens, hashes = array("I"), array("d"), array("Q")
    untitled = 0
    total = int(manifest.counts["passages"])
    for passage in counted(read_corpus(manifest, folder), "inspect: passages", total):
        sought.look_in(passage.contents)
        words.append(len(passage.contents.split()))
        tokens.append(count_tokens(passage.contents))
        digest = hashlib.blake2b(passage.contents.encode(), digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "little"))
        untitled += not passage.title
    counts = np.frombuffer(tokens, dtype=np.float64)
    return PassageReport(
        passages=len(words),
        malformed_lines=int(manifest.counts.get("malformed_lines", 0)),
        duplicates=len(hashes) - len(np.unique(np.frombuffer(hashes, dtype=np.uint64))),
        untitled=untitled,
        words=spread(np.frombuffer(words, dtype=np.uint32)),
        tokens=spread(counts),
        token_measure=measure,
        token_budget=config.token_budget,
        over_budget=int((counts > config.token_budget).sum()),
    )


def token_counter(tokenizer: str) -> tuple[Callable[[str], float], str]:
    """Return what counts the tokens of a text, and its name.

    Raises:
        MissingError: there is no tokenizer in the folder `tokenizer`.
    """
    if not tokenizer:
        return lambda text: len(text.split()) * TOKENS_PER_WORD, f"words x {TOKENS_PER_WORD}"
    folder = Path(tokenizer).expanduser()
    if not (folder / "tokenizer_config.json").is_file():
        raise MissingError(f"{folder} holds no tokenizer", "a folder with tokenizer_config.json", "check the path")
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return lambda text: float(len(loaded.encode(text, add_special_tokens=False))), folder.name


def spread(values: NDArray) -> Spread:
    """Return how `values`, at least one, are distributed."""
    middle, high = np.percentile(values, [50, 95])
    return Spread(round(float(values.mean()), 2), float(middle), float(high), float(values.max()))
