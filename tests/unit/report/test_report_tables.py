import re

import pytest

from components.contracts.statistics import PairedDifference
from components.report.intervals import difference_table
from components.report.tables import Column, Estimate, MethodRow, em_table, fraction, plain_table, signed

SETS = ("nq", "hotpotqa")


def estimate(mean: float, n: int = 100) -> Estimate:
    return Estimate(mean, mean / 2, min(1.0, mean * 1.5), n)


def row(label: str, nq: float | None, hotpotqa: float | None, average: float) -> MethodRow:
    given = {"nq": nq, "hotpotqa": hotpotqa}
    return MethodRow(label, "note", {k: estimate(v) for k, v in given.items() if v is not None}, estimate(average, 200))


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        pytest.param(0.4314, ".431", id="paper-style"),
        pytest.param(1.0, "1.000", id="one"),
        pytest.param(0.0, ".000", id="zero"),
        pytest.param(-0.05, "\N{MINUS SIGN}.050", id="negative"),
        pytest.param(-0.0001, ".000", id="no-minus-zero"),
    ],
)
def test_fractions_are_printed_as_the_field_prints_them(value, printed):
    assert fraction(value) == printed


def test_signed_fractions_show_gains():
    assert (signed(0.1), signed(-0.1), signed(0.0)) == ("+.100", "\N{MINUS SIGN}.100", "+.000")


def test_the_best_of_each_column_is_bold_ties_included():
    html = em_table([row("a", 0.8, 0.1, 0.45), row("b", 0.2, 0.1, 0.15), row("c", 0.8, None, 0.8)], SETS)
    bold = [re.findall(r'<b class="value">(.*?)</b>', line) for line in html.split("<tbody>")[1].split("</tr>")[:3]]
    assert bold == [[".800", ".100"], [".100"], [".800", ".800"]]
    assert html.count("\N{EN DASH}</td>") == 1


def test_a_column_of_zeros_has_no_winner_to_shout_about():
    html = em_table([row("a", 0.0, 0.0, 0.0), row("b", 0.0, 0.0, 0.0)], SETS)
    assert '<b class="value">' not in html


def test_in_domain_sets_carry_a_mark_and_its_explanation():
    rows = [row("a", 0.8, 0.1, 0.45)]
    marked = em_table(rows, SETS, frozenset({"nq"}))
    assert marked.count('class="mark"') == 1 and "in-domain: the model" in marked
    assert "in-domain" not in em_table(rows, SETS)


def test_intervals_and_sizes_stand_with_the_numbers():
    html = em_table([row("a", 0.8, 0.1, 0.45)], SETS)
    assert "<small>.400\N{EN DASH}1.000</small>" in html and "n = 100" in html and "n = 200" in html


def test_hostile_names_are_text():
    html = em_table([row("<script>a</script>", 0.8, 0.1, 0.4)], ["<script>s</script>"])
    assert "<script" not in html
    assert "<script" not in plain_table([Column("<script>")], [("<script>",)], "<script>")


def test_a_difference_says_whether_it_is_ahead_behind_or_open():
    def difference(lo: float, hi: float) -> PairedDifference:
        return PairedDifference((lo + hi) / 2, lo, hi, 0.0005 if lo > 0 else 0.25, 30, 10, 100)

    html = difference_table(
        [
            ("x", difference(0.1, 0.3)),
            ("more often than not", difference(-0.1, 0.3)),
            ("less often than not", difference(-0.3, 0.1)),
            ("z", difference(-0.3, -0.1)),
        ],
        "ours",
    )
    assert re.findall(r'class="interval (\w+)"', html) == ["ahead", "open", "open", "behind"]
    assert "&lt; .001" in html and "30 / 60 / 10" in html


def test_differences_share_one_scale_around_zero():
    html = difference_table(
        [("x", PairedDifference(0.5, 0.4, 0.6, 0.01, 1, 0, 2)), ("y", PairedDifference(0.0, 0.0, 0.0, 1.0, 0, 0, 2))],
        "ours",
    )
    zeros = re.findall(r'<line x1="([\d.]+)" x2="\1" y1="0"', html)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', html)]
    assert len(set(zeros)) == 1 and dots[1] == float(zeros[0]) < dots[0]
