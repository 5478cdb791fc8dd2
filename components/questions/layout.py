"""Finds question files in a folder: per set in the FlashRAG layout, or one Parquet file a split for all sets."""

from pathlib import Path

from components.contracts.errors import QuestionError
from components.questions.records import sets_of_parquet

SPLITS = ("test", "dev", "train")
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
ALLOWED = "<set>/test.jsonl (or dev, train), test/<set>.jsonl, <set>.jsonl (or .jsonl.gz, .parquet), or test.parquet"


def candidates(set_name: str, split: str) -> list[str]:
    """Return the relative names under which a split of a set may lie, best first."""
    stems = [f"{set_name}/{split}", f"{split}/{set_name}"] + [set_name] * (split == "test")
    return [*(f"{stem}{ending}" for stem in stems for ending in ENDINGS), _shared(split)]


def split_file(folder: Path, set_name: str, split: str) -> Path | None:
    """Return the file with one split of a set, or None when the source has no such split.

    Raises:
        QuestionError: a Parquet file is damaged.
    """
    paths = (folder / name for name in candidates(set_name, split))
    return next((path for path in paths if path.is_file() and _has(path, folder, set_name, split)), None)


def evaluated_split(folder: Path, set_name: str) -> str | None:
    """Return which split of a set is evaluated on (test, else dev, else train, as in the Search-R1 paper), or None.

    Raises:
        QuestionError: a Parquet file is damaged.
    """
    return next((split for split in SPLITS if split_file(folder, set_name, split)), None)


def absent(folder: Path, set_name: str) -> QuestionError:
    """Return the error that says which sets there are instead."""
    files = [path for path in folder.rglob("*") if path.name.endswith(ENDINGS)]
    stems = {path: path.name.partition(".")[0] for path in files}
    found = {stem if stem not in SPLITS else path.parent.name for path, stem in stems.items() if not _is_shared(path)}
    found |= {name for path in files if _is_shared(path) for name in sets_of_parquet(path)}
    return QuestionError(
        f"{folder} has no file of the set {set_name!r}; it has {', '.join(sorted(found)[:20]) or 'no question file'}",
        ALLOWED,
        "correct questions.uri, or name the sets you have in questions.test_sets and questions.train_sets",
    )


def _shared(split: str) -> str:
    return f"{split}.parquet"


def _is_shared(path: Path) -> bool:
    return path.name in map(_shared, SPLITS) and bool(sets_of_parquet(path))


def _has(path: Path, folder: Path, set_name: str, split: str) -> bool:
    return path != folder / _shared(split) or set_name in sets_of_parquet(path)
