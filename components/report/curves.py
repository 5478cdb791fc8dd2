"""Training curves as small multiples: inline SVG with axes, units, the last value and the chosen step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.report.axis import Axis, round_ticks, short_number
from components.report.markup import Markup, element, escape

_WIDTH, _HEIGHT = 340, 206
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 330.0, 14.0, 172.0
_MAX_HOVER_POINTS = 200
_MAX_KINDS = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """One chart: the metric drawn, what it is called, its unit, and whether its parts are drawn thinner."""

    key: str
    title: str
    unit: str
    with_parts: bool = False


TRAINING_PANELS = (
    Panel("reward/mean", "Reward", "mean of the batch", with_parts=True),
    Panel("em/dev", "Dev exact match", "held-out questions, greedy", with_parts=True),
    Panel("rollout/num_searches/mean", "Searches per question", "searches", with_parts=True),
    Panel("response/tokens/mean", "Response length", "model tokens"),
    Panel("kl/ref", "Divergence from the base", "nats per token"),
    Panel("entropy/mean", "Entropy", "nats per token"),
)
"""The six curves every training report shows, by the trainer's metric keys."""


def curves(
    records: Sequence[Mapping[str, float]], panels: Sequence[Panel] = TRAINING_PANELS, chosen_step: int | None = None
) -> Markup:
    """Return one chart per panel that has data; `records` are the lines of `metrics.jsonl`.

    A step logged twice (a resumed run) counts with its last record; values that are no finite number
    leave a gap. `chosen_step` marks the checkpoint that was kept.
    """
    by_step = {int(record["step"]): record for record in records if "step" in record}
    steps = (min(by_step), max(by_step)) if by_step else (0, 0)
    charts = [_chart(panel, _series(by_step, panel), steps, chosen_step) for panel in panels]
    shown = [chart for chart in charts if chart]
    return element("div", *shown, class_="curves") if shown else element("p", "No metrics were logged.", class_="note")


def _series(by_step: Mapping[int, Mapping[str, float]], panel: Panel) -> dict[str, list[Point]]:
    keys = [panel.key]
    if panel.with_parts:
        parts = {key for record in by_step.values() for key in record if key.startswith(panel.key + "/")}
        keys += sorted(parts)[:_MAX_KINDS]
    found = {}
    for key in keys:
        values = ((step, by_step[step].get(key)) for step in sorted(by_step))
        points = [(step, value if _is_finite(value) else math.nan) for step, value in values if value is not None]
        if any(math.isfinite(value) for _, value in points):
            found[key] = points
    return found


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _chart(panel: Panel, series: Mapping[str, list[Point]], steps: tuple[int, int], chosen_step: int | None) -> Markup:
    if panel.key not in series:
        return escape("")
    values = [value for points in series.values() for _, value in points if math.isfinite(value)]
    y_ticks, x_ticks = round_ticks(min(values), max(values)), _step_ticks(*steps)
    x = Axis(x_ticks[0], max(steps[1], x_ticks[0] + 1), _LEFT, _RIGHT)
    y = Axis(y_ticks[0], y_ticks[-1], _BOTTOM, _TOP)
    kinds = [key for key in series if key != panel.key]
    last_step, last = next((s, v) for s, v in reversed(series[panel.key]) if math.isfinite(v))
    drawing = [*_grid(x, y, x_ticks, y_ticks), *_chosen(x, chosen_step)]
    drawing += [part for i, key in enumerate(kinds) for part in _line(series[key], x, y, f"part k{i}")]
    drawing += _line(series[panel.key], x, y, "main")
    picture = element(
        "svg",
        *drawing,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{panel.title}, {panel.unit}: {short_number(last)} at step {int(last_step)}",
    )
    legend = [element("span", key.removeprefix(panel.key + "/"), class_=f"k{i}") for i, key in enumerate(kinds)]
    head = element(
        "figcaption",
        element("span", element("b", panel.title), element("small", panel.unit), class_="what"),
        element("span", short_number(last), class_="now", title=f"last value, step {int(last_step)}"),
    )
    return element("figure", head, picture, element("div", *legend, class_="legend") if legend else "")


def _step_ticks(lo: float, hi: float) -> list[float]:
    """Whole steps up to `hi`; the first lies at or before `lo`."""
    ticks = [tick for tick in round_ticks(lo, max(hi, lo + 1), about=5) if tick <= hi and tick == int(tick)]
    return ticks or [lo]


def _grid(x: Axis, y: Axis, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[Markup]:
    lines = []
    for tick in y_ticks:
        at = y.place(tick)
        lines.append(element("line", x1=_LEFT, x2=_RIGHT, y1=at, y2=at, class_="grid"))
        lines.append(element("text", short_number(tick), x=_LEFT - 7, y=at + 3.5, text_anchor="end"))
    for tick in x_ticks:
        lines.append(element("text", f"{int(tick):,}", x=x.place(tick), y=_BOTTOM + 16, text_anchor="middle"))
    lines.append(element("text", "step", x=_RIGHT, y=_HEIGHT - 4, text_anchor="end", class_="unit"))
    return lines


def _chosen(x: Axis, step: int | None) -> list[Markup]:
    if step is None or not x.lo <= step <= x.hi:
        return []
    at = x.place(step)
    title = element("title", f"step {step}: the checkpoint that was kept")
    return [element("line", title, x1=at, x2=at, y1=_TOP, y2=_BOTTOM, class_="chosen")]


def _line(points: Sequence[Point], x: Axis, y: Axis, class_: str) -> list[Markup]:
    path, is_pen_down, placed = "", False, []
    for step, value in points:
        if not math.isfinite(value):
            is_pen_down = False
            continue
        at = (x.place(step), y.place(value))
        path += f"{'L' if is_pen_down else 'M'}{at[0]:.1f} {at[1]:.1f}"
        is_pen_down = True
        placed.append((at, step, value))
    drawn = [element("path", d=path, class_=f"line {class_}")]
    if "main" in class_:
        drawn += [_point(at, step, value, len(placed)) for at, step, value in placed[-_MAX_HOVER_POINTS:]]
    return drawn


def _point(at: Point, step: float, value: float, num_points: int) -> Markup:
    """Few points are drawn as dots; many are invisible and only carry the text shown under the pointer."""
    title = element("title", f"step {int(step)}: {short_number(value)}")
    return element(
        "circle",
        title,
        cx=at[0],
        cy=at[1],
        r=2.6 if num_points <= 25 else 4.0,
        class_="point" if num_points <= 25 else "hover",
    )
