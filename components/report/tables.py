"""Tables with aligned numbers: exact match by method and set, and plain ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from components.report.markup import Markup, element, escape, join

_SET_LABELS = {
    "nq": "NQ",
    "triviaqa": "TriviaQA",
    "popqa": "PopQA",
    "hotpotqa": "HotpotQA",
    "2wikimultihopqa": "2Wiki",
    "musique": "MuSiQue",
    "bamboogle": "Bamboogle",
}
_GROUPS = {"nq": "General QA", "triviaqa": "General QA", "popqa": "General QA"} | dict.fromkeys(
    ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle"), "Multi-hop QA"
)
"""As the paper's tables head their columns (Search-R1, table 2)."""
_IN_DOMAIN = "\N{DAGGER}"


@dataclass(frozen=True)
class Estimate:
    """A mean in 0..1 over `n` questions with its 95 % interval."""

    mean: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True)
class MethodRow:
    """One method of the table; `cells` maps set names to estimates and may lack a set."""

    label: str
    note: str
    cells: Mapping[str, Estimate]
    average: Estimate
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a plain table; numbers are right-aligned."""

    title: str
    is_number: bool = True


def fraction(value: float) -> str:
    """Return a number in -1..1 as the field prints it: three digits, no leading zero (`.431`, `1.000`)."""
    digits = f"{abs(value):.3f}"
    sign = "\N{MINUS SIGN}" if value < 0 and float(digits) else ""
    return sign + (digits[1:] if digits.startswith("0") else digits)


def signed(value: float) -> str:
    """Return `fraction` with a plus sign for gains."""
    return fraction(value) if value < 0 else f"+{fraction(value)}"


def em_table(
    rows: Sequence[MethodRow],
    sets: Sequence[str],
    in_domain: frozenset[str] = frozenset(),
    whole_sizes: Mapping[str, int] | None = None,
) -> Markup:
    """Return methods x sets with the average last; the best of each column is bold, ties included, unless it is 0.

    In-domain sets carry a mark that the caption explains; a missing cell shows a dash. `whole_sizes` holds the
    number of questions of sets of which only some were asked.
    """
    columns = [[row.cells.get(name) for row in rows] for name in sets] + [[row.average for row in rows]]
    best = [fraction(max((cell.mean for cell in column if cell), default=0.0)) for column in columns]
    lines = []
    for i, row in enumerate(rows):
        cells = [
            _cell(column[i], best=top, is_average=j == len(sets))
            for j, (column, top) in enumerate(zip(columns, best, strict=True))
        ]
        name = element("th", element("span", row.label), element("small", row.note), scope="row")
        lines.append(element("tr", name, *cells, class_="strong" if row.strong else False))
    marked = [name for name in sets if name in in_domain]
    note = "Exact match; below it the 95 % interval. The best of each column is bold."
    if marked:
        note += f" {_IN_DOMAIN} in-domain: the model was trained on this set; the others are out of domain."
    wholes = whole_sizes or {}
    titles = [
        _head(name, column, name in in_domain, wholes.get(name, 0))
        for name, column in zip([*sets, "average"], columns, strict=True)
    ]
    head = element("tr", element("th", "Method", scope="col"), *titles)
    table = element("table", element("thead", _groups(sets), head), element("tbody", *lines), class_="em")
    return _scrolled(table, "Exact match by method and set", note)


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], note: str = "") -> Markup:
    """Return a table whose first column names the row; cells are strings or `Markup`, `note` stands below."""
    kinds = ["number" if column.is_number else "text" for column in columns]
    titles = [
        element("th", column.title, scope="col", class_=kind) for column, kind in zip(columns, kinds, strict=True)
    ]
    lines = []
    for first, *others in rows:
        cells = [element("td", cell, class_=kind) for cell, kind in zip(others, kinds[1:], strict=True)]
        lines.append(element("tr", element("th", first, scope="row", class_=kinds[0]), *cells))
    table = element("table", element("thead", element("tr", *titles)), element("tbody", *lines))
    return _scrolled(table, columns[0].title, note)


def set_label(name: str) -> str:
    """Return the name a question set has in papers; a custom set keeps its own."""
    return _SET_LABELS.get(name, name)


def _scrolled(table: Markup, label: str, note: str) -> Markup:
    """A wide table scrolls in its box; the box takes the focus so that the arrow keys scroll it too."""
    box = element("div", table, class_="scroll", tabindex=0, role="group", aria_label=label)
    return join([box, element("p", note, class_="note below")]) if note else box


def _groups(sets: Sequence[str]) -> Markup:
    """The row above the sets; custom sets stand under no title."""
    cells = [
        element("th", group, colspan=len(list(members)), scope="colgroup", class_="group")
        for group, members in groupby(sets, key=lambda name: _GROUPS.get(name, ""))
    ]
    return element("tr", element("td"), *cells, element("td", class_="average"))


def _head(name: str, column: Sequence[Estimate | None], is_in_domain: bool, whole: int) -> Markup:
    sizes = sorted({cell.n for cell in column if cell})
    size = f"n = {sizes[0]:,}" if len(sizes) == 1 else ("n varies" if sizes else "")
    if whole:
        size += f" of {whole:,}"
    mark = element("span", _IN_DOMAIN, class_="mark", title="in-domain") if is_in_domain else escape("")
    class_ = "number average" if name == "average" else "number"
    return element("th", element("span", set_label(name), mark), element("small", size), scope="col", class_=class_)


def _cell(cell: Estimate | None, best: str, is_average: bool) -> Markup:
    class_ = "number average" if is_average else "number"
    if cell is None:
        return element("td", "\N{EN DASH}", class_=class_)
    printed = fraction(cell.mean)
    value = element("b" if printed == best and cell.mean > 0 else "span", printed, class_="value")
    interval = element("small", f"{fraction(cell.lo)}\N{EN DASH}{fraction(cell.hi)}")
    return element("td", join([value, interval]), class_=class_)
