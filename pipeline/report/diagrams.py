"""Draw reliability diagrams as small inline SVGs: one a task and number of shots.

A report may hold dozens of them, so they are written directly: lines, dots and a few words in the
page's own colours, a few kilobytes each, at no cost worth measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from pipeline.report.charts import SERIES, Chart, dash_of
from pipeline.report.words import percent

LEFT, TOP, SIDE = 34, 8, 180
"""Where the square of the diagram begins, and how long its sides are."""
BARS, HEIGHT = TOP + SIDE + 14, 34
"""Where the histogram begins, and how high it is."""
WIDTH, BOTTOM = LEFT + SIDE + 14, BARS + HEIGHT + 32
TICKS = (0.0, 0.5, 1.0)
Points = Sequence[Mapping[str, float]]
"""Of a reliability diagram: ``confidence``, ``accuracy``, ``n``."""


def draw_reliability(
    name: str,
    title: str,
    lines: Mapping[str, tuple[Points, Sequence[int]]],
    palette: Mapping[str, int],
    source: str,
) -> Chart:
    """Draw how often answers are right by how sure the model is, and how sure it is how often.

    Args:
        name: prefix of the ids in the SVG.
        title: what is shown.
        lines: stage to its diagram's points and its histogram, counts in equal ranges of [0, 1].
        palette: stage to its colour.
        source: file that the numbers come from.
    """
    described = "; ".join(_describe(stage, points) for stage, (points, _) in lines.items())
    parts = [_frame()]
    for stage, (points, counts) in lines.items():
        stroke = _stroke(palette.get(stage, 0))
        parts += [_histogram(counts, stroke), _line(points, stroke)]
    svg = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}.</desc>{}</svg>'
    ).format(WIDTH, BOTTOM, name, name, name, title, name, described, Markup().join(parts))
    return Chart(title, f"{described}.", source, svg)


def _describe(stage: str, points: Points) -> str:
    first, last = points[0], points[-1]
    return (
        f"{stage}: where least sure, {percent(first['confidence'])} % sure and "
        f"{percent(first['accuracy'])} % right; where surest, {percent(last['confidence'])} % sure "
        f"and {percent(last['accuracy'])} % right"
    )


def _across(share: float) -> float:
    return round(LEFT + SIDE * share, 1)


def _up(share: float) -> float:
    return round(TOP + SIDE * (1 - share), 1)


def _stroke(colour: int) -> str:
    dash = dash_of(colour)
    return f"stroke: var(--series-{colour % SERIES}); stroke-dasharray: {dash}; fill: none"


def _frame() -> Markup:
    """Return the axes, the diagonal where confidence is accuracy, and their words."""
    lines = [
        Markup(
            '<path d="M{} {}H{}M{} {}V{}" style="stroke: var(--line); stroke-width: .8"></path>'
        ).format(LEFT, _up(tick), LEFT + SIDE, _across(tick), TOP, TOP + SIDE)
        for tick in TICKS
    ]
    lines.append(
        Markup(
            '<path d="M{} {}L{} {}" style="stroke: var(--muted); stroke-width: 1"></path>'
        ).format(_across(0), _up(0), _across(1), _up(1))
    )
    for tick in TICKS:
        label = f"{100 * tick:.0f}"
        lines.append(_word(LEFT - 5, _up(tick) + 3.5, label, "end"))
        lines.append(_word(_across(tick), BARS + HEIGHT + 13, label, "middle"))
    middle = LEFT + SIDE / 2
    lines.append(_word(middle, BOTTOM - 5, "confidence, percent; below, how often", "middle"))
    lines.append(
        Markup('<g transform="rotate(-90 9 {})">{}</g>').format(
            TOP + SIDE / 2, _word(9, TOP + SIDE / 2, "right, percent", "middle")
        )
    )
    return Markup().join(lines)


def _word(across: float, down: float, text: str, anchor: str) -> Markup:
    return Markup(
        '<text x="{}" y="{}" text-anchor="{}" style="fill: var(--muted); font-size: 9.5px">'
        "{}</text>"
    ).format(round(across, 1), round(down, 1), anchor, text)


def _line(points: Points, stroke: str) -> Markup:
    places = [(_across(point["confidence"]), _up(point["accuracy"])) for point in points]
    course = "M" + "L".join(f"{x} {y}" for x, y in places)
    # A dot is a stroke of no length with round ends.
    dots = "".join(f"M{x} {y}h0" for x, y in places)
    return Markup(
        '<path d="{}" style="{}; stroke-width: 1.5"></path>'
        '<path d="{}" style="{}; stroke-width: 4.5; stroke-linecap: round; stroke-dasharray: none">'
        "</path>"
    ).format(course, stroke, dots, stroke)


def _histogram(counts: Sequence[int], stroke: str) -> Markup:
    """Return the outline of a histogram whose highest column fills its height."""
    most, width = max(counts, default=0), 1 / max(len(counts), 1)
    if not most:
        return Markup()
    course = f"M{_across(0)} {BARS + HEIGHT}"
    for place, count in enumerate(counts):
        level = round(BARS + HEIGHT * (1 - count / most), 1)
        course += f"V{level}H{_across((place + 1) * width)}"
    course += f"V{BARS + HEIGHT}"
    return Markup('<path d="{}" style="{}; stroke-width: 1.2"></path>').format(course, stroke)
