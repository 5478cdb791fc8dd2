"""Two-word names out of 100 x 100 invented words, split for ever into training and test pairs."""

import random
from collections.abc import Iterator
from functools import cache
from typing import Literal

Split = Literal["train", "test"]
NUM_WORDS = 100
_TEST_RESIDUES = 3


@cache
def first_words() -> tuple[str, ...]:
    """Return the 100 words a name begins with."""
    return _words()[:NUM_WORDS]


@cache
def last_words() -> tuple[str, ...]:
    """Return the 100 words a name ends with; none of them is a first word."""
    return _words()[NUM_WORDS:]


def is_test_name(name: str) -> bool:
    """Return whether `name` belongs to the 30 % of pairs reserved for test entities.

    The split depends on the words alone, not on a seed: every word occurs in both halves, no pair does.
    """
    first, last = name.split(" ")
    return (first_words().index(first) * 7 + last_words().index(last) * 3) % 10 < _TEST_RESIDUES


def draw_names(split: Split, rng: random.Random) -> Iterator[str]:
    """Yield distinct names of `split` in random order, 7,000 of the train split and 3,000 of the test split."""
    names = list(_names(split))
    for position in range(len(names)):
        chosen = rng.randrange(position, len(names))
        names[position], names[chosen] = names[chosen], names[position]
        yield names[position]


@cache
def _names(split: Split) -> tuple[str, ...]:
    pairs = (f"{first} {last}" for first in first_words() for last in last_words())
    return tuple(name for name in pairs if is_test_name(name) == (split == "test"))


@cache
def _words() -> tuple[str, ...]:
    # Porter stemming strips a final "e" and "s"; words end in a, o, u so that every word is its own stem.
    onsets, vowels, endings = "bdfgklmnprtvz", "aeiou", "aou"
    syllables = sorted(f"{a}{b}{c}{d}" for a in onsets for b in vowels for c in onsets for d in endings if a != c)
    random.Random(2503).shuffle(syllables)
    return tuple(syllables[: 2 * NUM_WORDS])
