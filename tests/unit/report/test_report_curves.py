import math
import re
from itertools import pairwise

import pytest

from components.report.axis import Axis, round_ticks, short_number
from components.report.curves import TRAINING_PANELS, Panel, curves

REWARD = (Panel("reward/mean", "Reward", "mean"),)


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [
        pytest.param(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], id="unit"),
        pytest.param(0.11, 0.83, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], id="reward"),
        pytest.param(-0.3, 0.3, [-0.4, -0.2, 0.0, 0.2, 0.4], id="around-zero"),
        pytest.param(900, 1150, [900, 950, 1000, 1050, 1100, 1150], id="tokens"),
        pytest.param(5.0, 5.0, [4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6], id="constant"),
        pytest.param(-5.0, -5.0, [-5.6, -5.4, -5.2, -5.0, -4.8, -4.6, -4.4], id="constant-below-zero"),
        pytest.param(0.0, 0.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], id="all-zero"),
    ],
)
def test_ticks_are_round_and_cover_the_values(lo, hi, expected):
    assert round_ticks(lo, hi) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 37.0, 1e6, 1e12])
def test_ticks_cover_any_scale_with_few_lines(scale):
    ticks = round_ticks(0.13 * scale, 0.97 * scale)
    assert ticks[0] <= 0.13 * scale and ticks[-1] >= 0.97 * scale and 3 <= len(ticks) <= 8
    assert len({round((b - a) / scale, 9) for a, b in pairwise(ticks)}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.4312, "0.431"), (0, "0"), (1240.4, "1,240"), (2.1e6, "2.1M"), (0.00003, "3e-05"), (4.0, "4")),
        *((1.375, "1.38"), (-1240.4, "-1,240"), (-2.1e6, "-2.1M"), (-4.0, "-4")),
    ],
)
def test_numbers_are_short(value, text):
    assert short_number(value) == text


def test_an_axis_may_run_downwards():
    axis = Axis(0, 10, 100, 20)
    assert (axis.place(0), axis.place(5), axis.place(10)) == (100, 60, 20)


def points(html: str) -> list[str]:
    return re.findall(r"<title>(step [^<]*)</title>", html)


def test_every_panel_with_data_is_drawn_and_no_other():
    keys = [panel.key for panel in TRAINING_PANELS]
    html = curves([{"step": 1} | dict.fromkeys(keys[:4], 0.5), {"step": 2} | dict.fromkeys(keys[:4], 0.7)])
    assert [title in html for title in (panel.title for panel in TRAINING_PANELS)] == [True] * 4 + [False] * 2
    assert html.count("<svg") == 4


def test_no_metrics_is_said():
    assert "No metrics were logged" in curves([])


def test_the_last_record_of_a_step_counts():
    records = [{"step": 1, "reward/mean": 0.1}, {"step": 2, "reward/mean": 0.2}, {"step": 2, "reward/mean": 0.9}]
    assert points(curves(records, REWARD)) == ["step 1: 0.1", "step 2: 0.9"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_leaves_a_gap(bad):
    records = [{"step": step, "reward/mean": bad if step == 3 else 0.5} for step in range(1, 6)]
    html = curves(records, REWARD)
    assert re.search(r'd="(M[^M]*M[^M]*)"', html) and "nan" not in html and "inf" not in html
    assert len(points(html)) == 4


def test_sparse_metrics_are_joined_across_the_steps_between():
    records = [{"step": s, "reward/mean": 0.1} | ({"em/dev": 0.5} if s % 2 else {}) for s in range(1, 6)]
    html = curves(records, (Panel("em/dev", "EM", "0 to 1"),))
    assert html.count("M", html.index('d="'), html.index('class="line main"')) == 1 and len(points(html)) == 3


def test_parts_have_a_legend_and_lines_inside_the_frame():
    records = [{"step": s, "em/dev": 0.5, "em/dev/nq": 0.9, "em/dev/<b>": 0.1} for s in (1, 2)]
    html = curves(records, (Panel("em/dev", "EM", "0 to 1", with_parts=True),))
    assert html.count('class="line part') == 2 and "&lt;b&gt;</span>" in html
    heights = [float(y) for path in re.findall(r'd="([^"]*)"', html) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    assert all(14 <= y <= 172 for y in heights)


def test_the_kept_step_is_marked_when_it_lies_inside():
    records = [{"step": s, "reward/mean": 0.5} for s in range(1, 11)]
    assert 'class="chosen"' in curves(records, REWARD, chosen_step=7)
    assert 'class="chosen"' not in curves(records, REWARD, chosen_step=99)


def test_one_step_alone_is_drawn():
    assert points(curves([{"step": 3, "reward/mean": 0.5}], REWARD)) == ["step 3: 0.5"]
