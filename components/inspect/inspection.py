"""Everything an inspection found, as records, as JSON and as sentences."""

import json
from dataclasses import asdict, dataclass

from components.inspect.passages import PassageReport
from components.inspect.question_sets import SetReport
from components.inspect.retrieval import SearchReport

SCHEMA_VERSION = 1
LOW_COVERAGE = 0.9
"""Below this share of answers in the corpus a set is named among the findings."""


@dataclass(frozen=True)
class Inspection:
    """The records of one inspection; `sets` and `searches` are in the same order, test sets first."""

    passages: PassageReport
    sets: tuple[SetReport, ...]
    searches: tuple[SearchReport, ...]
    leaks: dict[str, dict[str, int]]
    """Training set -> test set -> its training and dev questions that are questions of that test set."""
    leaked: int
    malformed: dict[str, int]
    """Question file -> rows left out as malformed."""
    absent: tuple[str, ...]
    """`role/set` that the source does not have."""
    sources: dict[str, str]
    """What was inspected: `corpus`, `questions`, `train_questions`."""

    @property
    def has_training_sets(self) -> bool:
        """Whether there is anything that could have leaked."""
        return any(report.role == "train" for report in self.sets)

    def to_json(self) -> str:
        """Return the inspection as indented JSON; the layout is in docs/inspect-data.md."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self), "findings": self.findings()}, indent=1)

    def findings(self) -> list[str]:
        """Return what somebody should look at before training, one sentence each; nothing when all is well."""
        found = self._passage_findings()
        found += [f"{count:,} malformed rows of {name} are left out" for name, count in self.malformed.items()]
        for train, tests in self.leaks.items():
            named = ", ".join(f"{count:,} in {test}" for test, count in tests.items())
            found.append(
                f"training and dev questions of {train} are also test questions ({named}); training drops them"
            )
        for report, search in zip(self.sets, self.searches, strict=True):
            found += _set_findings(report) + _search_findings(search)
        return found

    def _passage_findings(self) -> list[str]:
        passages, found = self.passages, []
        if passages.malformed_lines:
            found.append(f"{passages.malformed_lines:,} malformed lines of the corpus are left out")
        if passages.duplicates:
            found.append(f"{_share(passages.duplicates, passages.passages)} passages are there twice")
        if passages.over_budget:
            found.append(
                f"{_share(passages.over_budget, passages.passages)} passages have more than {passages.token_budget} "
                f"tokens ({passages.token_measure}) and would be cut"
            )
        return found


def label(report: SetReport | SearchReport) -> str:
    """Return the set's name, with its role unless it is a test set."""
    return report.set_name if report.role == "test" else f"{report.set_name} ({report.role})"


def _set_findings(report: SetReport) -> list[str]:
    found = []
    if report.contradictions:
        found.append(f"{label(report)}: {report.contradictions:,} questions are asked again with other gold answers")
    if report.unanswerable:
        found.append(f"{label(report)}: {report.unanswerable:,} questions have no gold answer that could be matched")
    for other, count in report.in_other_test_sets.items():
        found.append(f"{label(report)}: {count:,} questions are in the test set {other} too")
    return found


def _search_findings(report: SearchReport) -> list[str]:
    absent = report.questions - report.in_corpus
    if not report.questions or report.in_corpus / report.questions >= LOW_COVERAGE:
        return []
    return [f"{label(report)}: the corpus holds no gold answer of {_share(absent, report.questions)} questions"]


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})"
