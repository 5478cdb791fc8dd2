"""Differences with their intervals, drawn on one shared scale around zero."""

from collections.abc import Sequence

from components.contracts.statistics import PairedDifference
from components.report.axis import Axis
from components.report.markup import Markup, element
from components.report.tables import Column, plain_table, signed

_WIDTH, _HEIGHT = 288, 24


def difference_table(differences: Sequence[tuple[str, PairedDifference]], subject: str) -> Markup:
    """Return one row per (other method, difference): mean, 95 % interval, won, tied and lost questions, p, picture."""
    reach = max((max(abs(d.lo), abs(d.hi)) for _, d in differences), default=0.0) or 1.0
    axis = Axis(-reach, reach, 8.0, _WIDTH - 8.0)
    columns = [
        Column(f"{subject} minus", is_number=False),
        Column("difference"),
        Column("95 % interval"),
        Column("won / tied / lost"),
        Column("p"),
        Column(element("span", "behind \N{LEFTWARDS ARROW} 0 \N{RIGHTWARDS ARROW} ahead", class_="scale")),
    ]
    rows = [
        (
            label,
            element("b", signed(d.mean)),
            f"{signed(d.lo)} to {signed(d.hi)}",
            f"{d.num_won:,} / {d.num_questions - d.num_won - d.num_lost:,} / {d.num_lost:,}",
            _p_value(d.p_value),
            _picture(d, axis),
        )
        for label, d in differences
    ]
    return plain_table(columns, rows)


def _picture(difference: PairedDifference, axis: Axis) -> Markup:
    middle = _HEIGHT / 2
    verdict = "ahead" if difference.lo > 0 else "behind" if difference.hi < 0 else "open"
    zero, lo, hi = axis.place(0.0), axis.place(difference.lo), axis.place(difference.hi)
    return element(
        "svg",
        element("line", x1=zero, x2=zero, y1=0, y2=_HEIGHT, class_="zero"),
        element("line", x1=lo, x2=hi, y1=middle, y2=middle, class_="whisker"),
        element("circle", cx=axis.place(difference.mean), cy=middle, r=4.5, class_="dot"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_=f"interval {verdict}",
        role="img",
        aria_label=f"{signed(difference.mean)}, 95 % interval {signed(difference.lo)} to {signed(difference.hi)}",
    )


def _p_value(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0")
