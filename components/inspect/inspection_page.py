"""The inspection as one self-contained HTML page."""

from components.inspect.inspection import Inspection, label
from components.inspect.tables import TextTable, tables
from components.report.markup import Markup, element
from components.report.page import Figure, Section, definitions, key_figures, page, paragraph
from components.report.tables import Column, fraction, plain_table, set_label


def inspection_page(inspection: Inspection) -> str:
    """Return the whole page as HTML; texts of corpus and questions enter it escaped."""
    findings = inspection.findings()
    items = element("ul", *(element("li", line) for line in findings))
    sections = [
        Section("At a glance", (_figures(inspection),)),
        Section("Findings", (items if findings else paragraph("Nothing to worry about."),)),
        *(Section(table.title, (_table(table),)) for table in tables(inspection)),
        Section("Intervals", (_intervals(inspection),), "95 % bootstrap intervals of the hits above."),
        Section("Sources", (definitions(_sources(inspection)),)),
    ]
    num_questions = sum(report.questions for report in inspection.sets)
    counted = f"{num_questions:,} questions in {len(inspection.sets)} sets, {inspection.passages.passages:,} passages"
    return page("Data inspection", sections, counted)


def _figures(inspection: Inspection) -> Markup:
    tests = [report for report in inspection.searches if report.role == "test" and report.questions]
    covered = sum(report.in_corpus / report.questions for report in tests) / len(tests) if tests else 0.0
    figures = [Figure(fraction(covered), "answers in the corpus", "average of the test sets", strong=True)]
    for k in list(inspection.searches[0].hits)[:3]:
        hit = sum(report.hits[k] for report in tests) / len(tests) if tests else 0.0
        figures.append(Figure(fraction(hit), f"hit@{k}", "average of the test sets"))
    if inspection.has_training_sets:
        figures.append(Figure(f"{inspection.leaked:,}", "leaked questions", "in train or dev and in a test set"))
    return key_figures(figures)


def _table(table: TextTable) -> Markup:
    columns = [Column(set_label(name), is_number=i > 0) for i, name in enumerate(table.columns)]
    return plain_table(columns, [(set_label(first), *cells) for first, *cells in table.rows], table.note)


def _intervals(inspection: Inspection) -> Markup:
    ks = list(inspection.searches[0].hits)
    rows = [
        (
            set_label(label(report)),
            f"{report.asked:,}",
            *(_interval(*report.ci95[k]) if report.asked else "-" for k in ks),
        )
        for report in inspection.searches
    ]
    return plain_table([Column("set", is_number=False), Column("n"), *(Column(f"hit@{k}") for k in ks)], rows)


def _interval(lo: float, hi: float) -> str:
    return f"{fraction(lo)}\N{EN DASH}{fraction(hi)}"


def _sources(inspection: Inspection) -> list[tuple[str, str]]:
    sources = list(inspection.sources.items())
    return [*sources, ("not in the source", ", ".join(inspection.absent))] if inspection.absent else sources
