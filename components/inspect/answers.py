"""Finds gold answers in passages: the normalised answer as whole tokens of the normalised passage."""

from collections.abc import Iterable

from components.contracts.answer import normalize_answer
from components.contracts.question import Question

_CLOSED = frozenset({"yes", "no"})


def open_answers(question: Question) -> frozenset[str]:
    """Return the normalised gold answers that a passage can hold.

    None for a question that is answered by yes or no, and for one whose answers normalise to nothing.
    """
    answers = normalized_answers(question)
    return frozenset() if answers <= _CLOSED else answers


def normalized_answers(question: Question) -> frozenset[str]:
    """Return the normalised gold answers that are not empty; a question without one can never be answered right."""
    return frozenset(filter(None, map(normalize_answer, question.golden_answers)))


def holds_answer(contents: str, answers: Iterable[str]) -> bool:
    """Return whether the passage holds one of the normalised answers."""
    text = f" {normalize_answer(contents)} "
    return any(f" {answer} " in text for answer in answers)


class AnswersSought:
    """Crosses answers off as passages show them; what is found costs nothing any more."""

    def __init__(self, answers: Iterable[str]) -> None:
        self.found: set[str] = set()
        self._by_first_word: dict[str, set[tuple[str, ...]]] = {}
        for answer in answers:
            words = tuple(answer.split())
            self._by_first_word.setdefault(words[0], set()).add(words)

    def look_in(self, contents: str) -> None:
        """Note which of the answers the passage holds."""
        words = normalize_answer(contents).split()
        for place, word in enumerate(words):
            sought = self._by_first_word.get(word)
            if not sought:
                continue
            here = [answer for answer in sought if tuple(words[place : place + len(answer)]) == answer]
            self.found.update(" ".join(answer) for answer in here)
            sought.difference_update(here)
