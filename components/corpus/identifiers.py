"""Finds passage ids that occur twice among tens of millions, in eight bytes per id."""

import hashlib
from array import array

import numpy as np


class SeenIds:
    """Remembers a 64-bit hash of every id."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, identifier: str) -> None:
        """Remember one id."""
        self._hashes.append(_hash(identifier))

    def suspects(self) -> "SuspectIds":
        """Return the ids whose hash was added more than once; few of them may differ in truth."""
        ordered = np.sort(np.frombuffer(self._hashes, dtype=np.uint64))
        return SuspectIds(frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist()))


class SuspectIds:
    """Answers whether an id may be a duplicate; false when it surely is none."""

    def __init__(self, hashes: frozenset[int]) -> None:
        self._hashes = hashes

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def __contains__(self, identifier: str) -> bool:
        return _hash(identifier) in self._hashes


def _hash(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")
