"""Draw the report's charts as inline SVG.

Matplotlib draws on a ``Figure`` of its own, so that no global state of pyplot is touched. What it
writes is then stripped to plain shapes and text: no metadata, no style sheet, no namespace, ids
that are unique in the page, and the page's colour variables in the place of fixed colours, so that
a chart follows light, dark and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.bootstrap import Interval
from pipeline.report.gather import Curve
from pipeline.report.words import digits, percent, points

# Colours that matplotlib writes and the page's variables that they stand for. Series have one each.
INK, MUTED, GRID = "#000001", "#000002", "#000003"
SERIES = 8
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    **{f"#0000{16 + i:02x}": f"var(--series-{i})" for i in range(SERIES)},
}
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.02,
    "figure.facecolor": "none",
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "steerline",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}
_KEPT_TAGS = {
    "svg",
    "g",
    "defs",
    "clipPath",
    "path",
    "rect",
    "use",
    "text",
    "tspan",
    "title",
    "desc",
}
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


class Series(NamedTuple):
    """One line of a chart: whose it is, which colour it has, its points, and the best's step."""

    label: str
    colour: int
    curve: Curve
    best: int | None = None


class Estimate(NamedTuple):
    """One row of an interval chart; a row without an interval is a point alone."""

    label: str
    colour: int
    value: float
    low: float | None
    high: float | None


class Path(NamedTuple):
    """A line through labelled points of a plane, and whose it is."""

    label: str
    colour: int
    across: Sequence[float]
    up: Sequence[float]
    marks: Sequence[str]


class Point(NamedTuple):
    """A point of a plane with its intervals, and whose it is."""

    label: str
    colour: int
    across: Interval
    up: Interval


class Chart(NamedTuple):
    """An inline SVG with the words that stand for it, and the file that its numbers come from."""

    title: str
    description: str
    source: str
    svg: Markup


def draw_curves(
    name: str, title: str, series: Sequence[Series], source: str, *, along: str = "step"
) -> Chart:
    """Draw one metric over the steps, a line a stage, exactly as logged (nothing is smoothed).

    A dot marks a stage's best step, where it has one. ``along`` says what is counted instead of
    steps.
    """
    description = "; ".join(_describe_line(line, along) for line in series)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.2, 2.2), layout="constrained")
        axes: Axes = figure.add_subplot()
        for line in series:
            axes.plot(
                line.curve.steps,
                line.curve.values,
                color=_colour(line.colour),
                linestyle=_DASHES[line.colour % len(_DASHES)],
                marker="o" if len(line.curve.steps) == 1 else None,
                markersize=4,
            )
            if line.best in line.curve.steps:
                value = line.curve.values[line.curve.steps.index(line.best)]
                axes.plot([line.best], [value], "o", color=_colour(line.colour), markersize=6)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(along)
        return Chart(title, f"{description}.", source, _svg(figure, name, title, description))


def draw_intervals(
    name: str, title: str, rows: Sequence[Estimate], source: str, *, zero: bool
) -> Chart:
    """Draw estimates with their 95 % intervals, one below the other.

    Args:
        name: prefix of the ids in the SVG.
        title: what is shown.
        rows: the estimates, fractions that are shown in percent or percentage points.
        source: file that the numbers come from.
        zero: mark 0 as the line of no change.
    """
    description = "; ".join(_describe(row, zero) for row in rows)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.6, 0.65 + 0.3 * len(rows)), layout="constrained")
        axes: Axes = figure.add_subplot()
        axes.grid(visible=False, axis="y")
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        for place, row in enumerate(rows):
            colour = _colour(row.colour)
            if row.low is not None and row.high is not None:
                axes.plot([100 * row.low, 100 * row.high], [place, place], color=colour, lw=2)
            axes.plot([100 * row.value], [place], "o", color=colour, markersize=6)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", colors=INK)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(x=0.06)
        axes.set_xlabel("percentage points" if zero else "percent")
        return Chart(title, f"{description}.", source, _svg(figure, name, title, description))


def draw_tradeoff(name: str, title: str, line: Path, points: Sequence[Point], source: str) -> Chart:
    """Draw what is had for how much KL: a curve, and single policies with 95 % intervals.

    Args:
        name: prefix of the ids in the SVG.
        title: what is shown upwards.
        line: the curve, its points marked.
        points: the policies.
        source: file that the numbers come from.
    """
    first, last = (f"{digits(line.up[i])} at {digits(line.across[i])} nats" for i in (0, -1))
    parts = [f"{line.label} goes from {first} to {last}"]
    parts += [
        f"{point.label} has {digits(point.up.estimate)} at {digits(point.across.estimate)} nats"
        for point in points
    ]
    description = "; ".join(parts)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes: Axes = figure.add_subplot()
        colour, dash = _colour(line.colour), _DASHES[line.colour % len(_DASHES)]
        axes.plot(line.across, line.up, color=colour, linestyle=dash)
        axes.plot(line.across, line.up, "o", color=colour, markersize=3)
        for across, up, mark in zip(line.across, line.up, line.marks, strict=True):
            axes.annotate(
                mark, (across, up), (0, 5), textcoords="offset points", ha="center", color=MUTED
            )
        for point in points:
            (x, left, right), (y, low, high) = point.across, point.up
            axes.plot([left, right], [y, y], color=_colour(point.colour), lw=1)
            axes.plot([x, x], [low, high], color=_colour(point.colour), lw=1)
            axes.plot([x], [y], "D", color=_colour(point.colour), markersize=5)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(0.06, 0.12)
        axes.set_xlabel("KL, nats")
        return Chart(title, f"{description}.", source, _svg(figure, name, title, description))


def draw_overoptimisation(
    name: str,
    title: str,
    rates: Mapping[str, tuple[int, Sequence[tuple[Interval, Interval]]]],
    scores: Sequence[tuple[Interval, Interval]],
    score_colour: int,
    source: str,
) -> Chart:
    """Draw win rates (left axis) and the score that was trained on (right) over KL.

    Args:
        name: prefix of the ids in the SVG.
        title: what is shown.
        rates: judge to its colour and its points, KL and win rate, fractions.
        scores: KL and mean score.
        score_colour: of the scores' line.
        source: file that the numbers come from.
    """
    parts = [
        f"by {judge} " + ", ".join(f"{percent(y[0])} % at {digits(x[0])} nats" for x, y in points)
        for judge, (_, points) in rates.items()
    ]
    if scores:
        said = ", ".join(f"{digits(y[0])} at {digits(x[0])} nats" for x, y in scores)
        parts.append(f"mean score {said}")
    description = "; ".join(parts)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        axes: Axes = figure.add_subplot()
        axes.axhline(50, color=MUTED, linewidth=0.8)
        for colour, points in rates.values():
            scaled = [(x, Interval(*(100 * end for end in y))) for x, y in points]
            _draw_way(axes, scaled, colour, "o")
        axes.set_ylabel("win rate, percent")
        axes.set_xlabel("KL from the start, nats")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(0.06, 0.12)
        if scores:
            right: Axes = axes.twinx()
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
            _draw_way(right, scores, score_colour, "s")
            right.set_ylabel("mean score")
            right.yaxis.set_major_locator(MaxNLocator(5))
            right.margins(0.06, 0.12)
        return Chart(title, f"{description}.", source, _svg(figure, name, title, description))


def _draw_way(
    axes: Axes, points: Sequence[tuple[Interval, Interval]], colour: int, marker: str
) -> None:
    """Draw points with their 95 % intervals, joined in the order given."""
    ink = _colour(colour)
    across, up = [x.estimate for x, _ in points], [y.estimate for _, y in points]
    axes.plot(across, up, color=ink, linestyle=_DASHES[colour % len(_DASHES)])
    axes.plot(across, up, marker, color=ink, markersize=4)
    for x, y in points:
        axes.plot([x.low, x.high], [y.estimate] * 2, color=ink, linewidth=0.8)
        axes.plot([x.estimate] * 2, [y.low, y.high], color=ink, linewidth=0.8)


def dash_of(colour: int) -> str:
    """Return the ``stroke-dasharray`` of a series, for the page's legend."""
    dash = _DASHES[colour % len(_DASHES)]
    return "none" if isinstance(dash, str) else " ".join(str(1.5 * length) for length in dash[1])


def _describe_line(line: Series, along: str) -> str:
    steps, values = line.curve
    text = f"{line.label} goes from {digits(values[0])} at {along} {steps[0]}"
    text += f" to {digits(values[-1])} at {along} {steps[-1]}"
    if line.best not in steps:
        return text
    return f"{text}, {digits(values[steps.index(line.best)])} at the best step {line.best}"


def _describe(row: Estimate, zero: bool) -> str:
    text = f"{row.label}: {points(row.value) if zero else percent(row.value) + ' %'}"
    if row.low is None or row.high is None:
        return text
    return f"{text}, interval {percent(row.low)} to {percent(row.high)}"


def _colour(series: int) -> str:
    return f"#0000{16 + series % SERIES:02x}"


def _svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    root = ET.fromstring(buffer.getvalue())
    _strip(root)
    ids = {element.get("id"): f"{name}-{i}" for i, element in enumerate(_with_ids(root))}
    for element in root.iter():
        element.attrib = {key: _mend(key, text, ids) for key, text in element.attrib.items()}
    heading, text = ET.Element("title", id=f"{name}-title"), ET.Element("desc", id=f"{name}-desc")
    heading.text, text.text = title, f"{description}."
    root.insert(0, heading)
    root.insert(1, text)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))


def _strip(element: ET.Element) -> None:
    """Drop namespaces, and every element and attribute that is not needed to draw."""
    element.tag = element.tag.rpartition("}")[2]
    kept = {key.rpartition("}")[2]: text for key, text in element.attrib.items()}
    element.attrib = {key: text for key, text in kept.items() if not key.startswith("on")}
    if element.tag == "svg":
        for key in ("width", "height", "version"):
            element.attrib.pop(key, None)
    for child in list(element):
        if child.tag.rpartition("}")[2] in _KEPT_TAGS:
            _strip(child)
        else:
            element.remove(child)


def _with_ids(root: ET.Element) -> Iterator[ET.Element]:
    return (element for element in root.iter() if element.get("id"))


def _mend(key: str, text: str, ids: Mapping[str | None, str]) -> str:
    if key == "id":
        return ids[text]
    if key == "href":
        return f"#{ids[text.removeprefix('#')]}"
    text = _REFERENCE.sub(lambda match: f"url(#{ids[match[1]]})", text)
    return re.sub(r"#0000[0-9a-f]{2}", lambda match: _VARIABLES.get(match[0], match[0]), text)
