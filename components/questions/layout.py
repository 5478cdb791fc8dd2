"""Finds question files in a folder: `<set>/<split>.jsonl` (FlashRAG), `<split>/<set>.jsonl` or `<set>.jsonl`."""

from pathlib import Path

from components.contracts.errors import QuestionError

SPLITS = ("test", "dev", "train")
ALLOWED = "<set>/test.jsonl (or dev, train), test/<set>.jsonl, or <set>.jsonl"


def candidates(set_name: str, split: str) -> list[str]:
    """Return the relative names under which a split of a set may lie, best first."""
    names = [f"{set_name}/{split}.jsonl", f"{split}/{set_name}.jsonl"]
    return [*names, f"{set_name}.jsonl"] if split == "test" else names


def split_file(folder: Path, set_name: str, split: str) -> Path | None:
    """Return the file of one split of a set, or None when the source has no such split."""
    return next((folder / name for name in candidates(set_name, split) if (folder / name).is_file()), None)


def evaluated_split(folder: Path, set_name: str) -> str:
    """Return which split of a set is evaluated on: test, else dev, else train.

    Raises:
        QuestionError: the folder has no file of the set.
    """
    for split in SPLITS:
        if split_file(folder, set_name, split):
            return split
    found = sorted({path.stem if path.stem not in SPLITS else path.parent.name for path in folder.rglob("*.jsonl")})
    raise QuestionError(
        f"{folder} has no file of the set {set_name!r}; it has {', '.join(found[:20]) or 'no .jsonl file'}",
        ALLOWED,
        "correct questions.uri, or name the sets you have in questions.test_sets and questions.train_sets",
    )
