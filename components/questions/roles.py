"""Gives every question one role (test, train or dev) and says what was taken out on the way."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contracts.errors import QuestionError
from components.contracts.question import Question
from components.questions.config import QuestionsConfig
from components.questions.layout import absent, candidates, evaluated_split, split_file
from components.questions.read import read_questions
from components.questions.split import cut_dev, limited, of_kinds, text_key, without
from components.storage import sha256_of


@dataclass
class Roles:
    """Every question by role and set, and what was left out."""

    test: dict[str, list[Question]] = field(default_factory=dict)
    train: dict[str, list[Question]] = field(default_factory=dict)
    dev: dict[str, list[Question]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    """Test set -> the split it was read from."""
    num_leaked: int = 0
    leaks: dict[str, dict[str, int]] = field(default_factory=dict)
    """Training set -> test set -> training and dev questions that are questions of that test set."""
    sampled: dict[str, dict[str, int]] = field(default_factory=dict)
    """`role/set` -> questions kept, of how many, by which seed; only sets that a limit cut."""
    malformed: dict[str, int] = field(default_factory=dict)
    """Source file -> rows left out as malformed; only files that have some."""
    source_sha256: dict[str, str] = field(default_factory=dict)
    """Source file -> SHA-256 of its bytes."""
    absent: list[str] = field(default_factory=list)
    """`role/set` that the source does not have."""

    def facts(self) -> dict[str, Any]:
        """Return what a reader of the manifest should know beside the questions themselves."""
        return {
            "splits": self.splits,
            "leaks": self.leaks,
            "sampled": self.sampled,
            "malformed": self.malformed,
            "source_sha256": self.source_sha256,
            "absent": self.absent,
        }


def assign(config: QuestionsConfig, test_folder: Path, train_folder: Path) -> Roles:
    """Return the questions of all sets in their roles.

    No text of a test question, of those over a limit too, is in train or dev, and none of dev is in train;
    texts are compared after answer normalisation.

    Raises:
        QuestionError: a file is malformed, absent or of another digest, no set is there, a set is left without training
            questions, or questions leak and `leaked` forbids it.
    """
    return _Assignment(config, test_folder, train_folder).roles


class _Assignment:
    def __init__(self, config: QuestionsConfig, test_folder: Path, train_folder: Path) -> None:
        self.config, self.test_folder, self.train_folder = config, test_folder, train_folder
        self.roles = Roles()
        every_test = [question for name in config.test_sets for question in self._test(name)]
        train = {name: self._clean(name, every_test) for name in config.train_sets if self._has_train(name)}
        every_dev = [question for dev in self.roles.dev.values() for question in dev]
        for name, questions in train.items():
            self.roles.train[name] = self._limited("train", name, without(questions, every_dev))
            self._check_train(name)
        if not self.roles.test and not self.roles.train:
            raise absent(self.test_folder, config.test_sets[0])
        self._check_leaks()
        self._check_digests()

    def _test(self, name: str) -> list[Question]:
        """Keep the test questions of a set and return all of them, since nobody may train on any."""
        split = evaluated_split(self.test_folder, name)
        if split is None:
            self._absent("test", name, absent(self.test_folder, name))
            return []
        self.roles.splits[name] = split
        questions = self._read(self.test_folder, name, split, "")
        self.roles.test[name] = self._limited("test", name, questions)
        return questions

    def _has_train(self, name: str) -> bool:
        if split_file(self.train_folder, name, "train"):
            if self.train_folder == self.test_folder and self.roles.splits.get(name) == "train":
                raise QuestionError(
                    f"The only file of {name!r} is its train file, and it cannot be tested and trained on",
                    remedy="take it out of questions.test_sets or questions.train_sets",
                )
            return True
        missing = QuestionError(
            f"{self.train_folder} has no train file of the set {name!r}",
            " or ".join(candidates(name, "train")),
            "correct questions.uri, or take the set out of questions.train_sets (none: evaluation only)",
        )
        self._absent("train", name, missing)
        return False

    def _clean(self, name: str, every_test: list[Question]) -> list[Question]:
        """Set the dev questions of a set apart and return those left to train on, free of test questions."""
        is_tested_on_dev = self.train_folder == self.test_folder and self.roles.splits.get(name) == "dev"
        train = of_kinds(self._read(self.train_folder, name, "train", "train-"), self.config.train_kinds)
        has_dev = not is_tested_on_dev and split_file(self.train_folder, name, "dev")
        dev = self._read(self.train_folder, name, "dev", "dev-") if has_dev else []
        dev = of_kinds(dev, self.config.train_kinds)
        self._count_leaks(name, [*train, *dev], every_test)
        train, dev = without(train, every_test), without(dev, every_test)
        dev = limited(dev, self.config.dev_questions, self.config.split_seed)
        if len(dev) < self.config.dev_questions:
            train, more = cut_dev(train, self.config.dev_questions - len(dev), self.config.split_seed)
            dev += more
        self.roles.dev[name] = dev
        return train

    def _count_leaks(self, name: str, questions: Iterable[Question], every_test: Iterable[Question]) -> None:
        sets: dict[str, set[str]] = {}
        for question in every_test:
            sets.setdefault(text_key(question.question), set()).add(question.set_name)
        leaked = [sets[key] for question in questions if (key := text_key(question.question)) in sets]
        self.roles.num_leaked += len(leaked)
        if leaked:
            self.roles.leaks[name] = dict(sorted(Counter(test for tests in leaked for test in tests).items()))

    def _read(self, folder: Path, name: str, split: str, prefix: str) -> list[Question]:
        path = split_file(folder, name, split)
        assert path is not None, "the split was found before"
        found = read_questions(path, name, prefix, self.config.max_malformed_rows)
        source = self._source_name(path, folder)
        if found.num_malformed:
            self.roles.malformed[source] = self.roles.malformed.get(source, 0) + found.num_malformed
            print(f"questions: left out {found.report()}", flush=True)
        if source not in self.roles.source_sha256:
            self.roles.source_sha256[source] = sha256_of(path)
        return found.questions

    def _source_name(self, path: Path, folder: Path) -> str:
        """Return the name of a file in its folder, marked when the training folder has one that the other has too."""
        name = path.relative_to(folder).as_posix()
        return f"train_uri:{name}" if folder != self.test_folder and (self.test_folder / name).is_file() else name

    def _limited(self, role: str, name: str, questions: list[Question]) -> list[Question]:
        limit = self.config.max_test_questions if role == "test" else self.config.max_train_questions
        kept = limited(questions, limit, self.config.split_seed)
        if len(kept) < len(questions):
            cut = {"questions": len(kept), "of": len(questions), "seed": self.config.split_seed}
            self.roles.sampled[f"{role}/{name}"] = cut
        return kept

    def _absent(self, role: str, name: str, error: QuestionError) -> None:
        if self.config.absent_sets == "error":
            raise error
        self.roles.absent.append(f"{role}/{name}")

    def _check_train(self, name: str) -> None:
        if not self.roles.train[name]:
            raise QuestionError(
                f"No question of {name!r} is left to train on, after {len(self.roles.dev[name])} for dev",
                remedy="lower questions.dev_questions, or check questions.train_kinds",
            )

    def _check_leaks(self) -> None:
        if self.roles.num_leaked and self.config.leaked == "error":
            raise QuestionError(
                f"{self.roles.num_leaked} training or dev questions are also test questions",
                remedy="clean the source, or set questions.leaked=remove",
            )

    def _check_digests(self) -> None:
        for name, expected in self.config.source_sha256.items():
            actual = self.roles.source_sha256.get(name, "")
            if actual != expected:
                given = f"{name} has the SHA-256 {actual}" if actual else f"No file {name} was read"
                raise QuestionError(
                    given,
                    expected if actual else ", ".join(sorted(self.roles.source_sha256)),
                    "pin the right revision, or correct questions.source_sha256",
                )
