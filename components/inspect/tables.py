"""The inspection as tables: rows of plain texts for the page, and aligned text for a terminal."""

from dataclasses import dataclass

from components.inspect.inspection import Inspection, label
from components.report.tables import fraction


@dataclass(frozen=True)
class TextTable:
    """A table of plain texts; the first column names the row, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def render(self) -> str:
        """Return the table as aligned lines."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        aligned = ["  ".join(_aligned(cell, i, widths[i]) for i, cell in enumerate(line)).rstrip() for line in lines]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([self.title, aligned[0], rule, *aligned[1:], *([self.note] if self.note else [])])


def tables(inspection: Inspection) -> list[TextTable]:
    """Return the tables of an inspection in reading order."""
    return [_search(inspection), _questions(inspection), _passages(inspection), _leaks(inspection)]


def terminal_text(inspection: Inspection) -> str:
    """Return all tables and the findings as text without control characters."""
    findings = inspection.findings()
    parts = [table.render() for table in tables(inspection)]
    parts.append(
        "\n".join(["Findings", *(f"- {line}" for line in findings)]) if findings else "Nothing to worry about."
    )
    return "\n\n".join(parts)


def _search(inspection: Inspection) -> TextTable:
    ks = list(inspection.searches[0].hits)
    rows = []
    for report in inspection.searches:
        coverage = fraction(report.in_corpus / report.questions) if report.questions else "-"
        asked = f"{report.asked:,} of {report.questions:,}" if report.asked < report.questions else f"{report.asked:,}"
        hits = [fraction(report.hits[k]) if report.asked else "-" for k in ks]
        rows.append((label(report), asked, *hits, coverage))
    note = (
        "A hit at k: one of the k best passages for the question holds a gold answer as whole words, after answer "
        "normalisation. Questions answered by yes or no are left out."
    )
    columns = ("set", "n", *(f"hit@{k}" for k in ks), "in corpus")
    return TextTable("BM25 with the question as it stands", columns, tuple(rows), note)


def _questions(inspection: Inspection) -> TextTable:
    columns = ("set", "split", "questions", "duplicates", "yes/no", "aliases", "words", "p95", "max", "long")
    rows = []
    for report in inspection.sets:
        sampled = f" of {report.of:,}" if report.of > report.questions else ""
        words = report.answer_words
        rows.append(
            (
                label(report),
                report.split,
                f"{report.questions:,}{sampled}",
                f"{report.duplicates:,}",
                f"{report.yes_no:,}",
                f"{report.aliases.mean:.1f}",
                f"{words.mean:.1f}",
                f"{words.p95:.0f}",
                f"{words.max:.0f}",
                f"{report.long_answers:,}",
            )
        )
    note = (
        "aliases: gold answers per question, on average. words, p95, max: normalised words of the shortest gold "
        "answer. long: questions whose shortest gold answer is longer than exact match usually rewards."
    )
    return TextTable("Questions and gold answers", columns, tuple(rows), note)


def _passages(inspection: Inspection) -> TextTable:
    passages = inspection.passages
    columns = ("corpus", "mean", "median", "p95", "max")
    rows = tuple(
        (name, f"{s.mean:,.0f}", f"{s.median:,.0f}", f"{s.p95:,.0f}", f"{s.max:,.0f}")
        for name, s in (("words a passage", passages.words), (f"tokens ({passages.token_measure})", passages.tokens))
    )
    note = (
        f"{passages.passages:,} passages; {passages.over_budget:,} over {passages.token_budget} tokens, "
        f"{passages.duplicates:,} duplicates, {passages.untitled:,} without a title, "
        f"{passages.malformed_lines:,} malformed lines."
    )
    return TextTable("Passages", columns, rows, note)


def _leaks(inspection: Inspection) -> TextTable:
    if not inspection.has_training_sets:
        note = "Not checked: there are no training sets."
        return TextTable("Leakage", ("train set",), (), note)
    tests = [report.set_name for report in inspection.sets if report.role == "test"]
    trains = [report.set_name for report in inspection.sets if report.role == "train"]
    rows = tuple((name, *(f"{inspection.leaks.get(name, {}).get(test, 0):,}" for test in tests)) for name in trains)
    note = "Training and dev questions whose normalised text is a test question; the questions step removes them."
    return TextTable("Leakage", ("train set", *tests), rows, note)


def _aligned(cell: str, column: int, width: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)
