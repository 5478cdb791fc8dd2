"""What a set of questions is made of: duplicates, lengths of gold answers, answers nobody can give."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.contracts.answer import normalize_answer
from components.contracts.manifest import Manifest
from components.contracts.question import SEVEN_SETS, Question
from components.inspect.answers import normalized_answers, open_answers
from components.inspect.passages import Spread, spread


@dataclass(frozen=True)
class SetReport:
    """One set in one role."""

    role: str
    """`test` or `train`."""
    set_name: str
    split: str
    """The split of the source that the questions were read from."""
    questions: int
    of: int
    """Questions of the source: more than `questions` when a limit drew a sample."""
    duplicates: int
    """Questions whose text, normalised, occurred before in the set."""
    contradictions: int
    """Duplicates that share no gold answer with the first of their text."""
    in_other_test_sets: dict[str, int]
    """Other test set -> questions of this one that are there too; of test sets only."""
    yes_no: int
    """Questions that are answered by yes or no: no passage can be searched for the answer."""
    unanswerable: int
    """Questions whose gold answers normalise to nothing: exact match is always 0."""
    aliases: Spread
    answer_words: Spread
    """Words of a question's shortest gold answer."""
    long_answers: int


def read_sets(manifest: Manifest, folder: Path) -> dict[tuple[str, str], list[Question]]:
    """Return (role, set) -> questions of a published question manifest, test sets first, in the paper's order."""
    sets: dict[tuple[str, str], list[Question]] = {}
    names = [entry.path for entry in manifest.files if entry.path.startswith("test/")]
    for name in [*sorted(names, key=_rank), "train.jsonl"]:
        role = name.partition("/")[0].removesuffix(".jsonl")
        with (folder / name).open(encoding="utf-8") as lines:
            for line in lines:
                question = Question.model_validate_json(line)
                sets.setdefault((role, question.set_name), []).append(question)
    return sets


def report_sets(
    sets: Mapping[tuple[str, str], Sequence[Question]], manifest: Manifest, long_answer_words: int
) -> list[SetReport]:
    """Return the report of every set, in order."""
    tested = {name: {_key(q) for q in questions} for (role, name), questions in sets.items() if role == "test"}
    sampled, splits = manifest.metadata.get("sampled", {}), manifest.metadata.get("splits", {})
    reports = []
    for (role, name), questions in sets.items():
        duplicates, contradictions = _duplicates(questions)
        others = {other: keys for other, keys in tested.items() if role == "test" and other != name}
        shared = Counter(other for question in questions for other, keys in others.items() if _key(question) in keys)
        words = [min((len(a.split()) for a in normalized_answers(q)), default=0) for q in questions]
        reports.append(
            SetReport(
                role=role,
                set_name=name,
                split=splits.get(name, "?") if role == "test" else "train",
                questions=len(questions),
                of=sampled.get(f"{role}/{name}", {}).get("of", len(questions)),
                duplicates=duplicates,
                contradictions=contradictions,
                in_other_test_sets=dict(sorted(shared.items())),
                yes_no=sum(bool(normalized_answers(q)) and not open_answers(q) for q in questions),
                unanswerable=sum(not normalized_answers(q) for q in questions),
                aliases=spread(np.array([len(q.golden_answers) for q in questions])),
                answer_words=spread(np.array(words)),
                long_answers=sum(count > long_answer_words for count in words),
            )
        )
    return reports


def _duplicates(questions: Sequence[Question]) -> tuple[int, int]:
    first: dict[str, frozenset[str]] = {}
    duplicates = contradictions = 0
    for question in questions:
        answers, key = normalized_answers(question), _key(question)
        if key in first:
            duplicates += 1
            contradictions += not answers & first[key]
        else:
            first[key] = answers
    return duplicates, contradictions


def _key(question: Question) -> str:
    return normalize_answer(question.question) or question.question


def _rank(path: str) -> tuple[int, str]:
    name = Path(path).stem
    return (SEVEN_SETS.index(name) if name in SEVEN_SETS else len(SEVEN_SETS)), name
