"""Lay out PPO's policies beside best-of-n sampling from where they started, at equal KL.

The figures are those of ``evaluate/best_of.json``; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.bootstrap import Interval
from pipeline.report.charts import Chart, Path, Point, draw_tradeoff
from pipeline.report.gather import EVALUATE, RunRecord
from pipeline.report.ledger import step_to
from pipeline.report.sections import colours
from pipeline.report.values import number, read_interval

SOURCE = f"{EVALUATE}/best_of.json"
PLACE = "/best_of"
"""Where the figures stand in ``report.json``."""
MEASURES = {
    "score": ("Score from the reward model", False),
    "followed": ("Instructions followed, percent", True),
    "utility": ("Gold utility", False),
    "win_rate": ("Win rate against one sample, percent", True),
}
"""What a completion is worth: its chart's title, and whether it is a fraction shown in percent."""
CHARTED = ("score", "followed", "utility")


@dataclass(frozen=True)
class BestOfRow:
    """Hold the figures of one way to answer.

    Attributes:
        label: ``best of 4``, or a stage.
        place: where the figures stand in ``report.json``.
        kl: from the start, in nats; best-of-n's is a formula and has no interval.
        figures: measure to its estimate and interval.
        ahead: measure to the difference to best-of-n at this KL.
        outside: a policy whose KL no n has.
    """

    label: str
    place: str
    kl: Interval
    figures: Mapping[str, Interval]
    ahead: Mapping[str, Interval]
    outside: bool = False


@dataclass(frozen=True)
class BestOf:
    """Hold what the page shows of the comparison.

    Attributes:
        start: stage that both began from.
        measures: those that were taken.
        palette: what the charts' lines and points stand for, each with its colour.
    """

    start: str
    prompts: int
    measures: Sequence[str]
    rows: Sequence[BestOfRow]
    charts: Sequence[Chart]
    palette: Mapping[str, int]


def lay_out_best_of(run: RunRecord) -> BestOf | None:
    """Return the comparison's table and charts, None where it was not made."""
    found = run.best_of
    points = [_point(at, each) for at, each in enumerate(found.get("best_of", []))]
    if not points:
        return None
    policies = [_policy(stage, each) for stage, each in found.get("policies", {}).items()]
    measures = [name for name in MEASURES if name in points[0].figures]
    start, palette = str(found["stage"]), colours(run)
    named = {f"best of n from {start}": palette.get(start, 0)}
    named |= {row.label: palette.get(row.label, 0) for row in policies}
    charts = [
        _chart(name, points, policies, named, next(iter(named)))
        for name in CHARTED
        if name in measures
    ]
    return BestOf(
        start=start,
        prompts=int(found.get("prompts", 0)),
        measures=measures,
        rows=[*points, *policies],
        charts=charts,
        palette=named,
    )


def _point(at: int, found: Mapping[str, Any]) -> BestOfRow:
    kl = number(found.get("kl")) or 0.0
    label, place = f"best of {found.get('n')}", f"{PLACE}/best_of/{at}"
    return BestOfRow(label, place, Interval(kl, kl, kl), _figures(found), {})


def _policy(stage: str, found: Mapping[str, Any]) -> BestOfRow:
    ahead = {
        name: difference
        for name, each in (found.get("at_equal_kl") or {}).items()
        if each and (difference := read_interval(each, "difference"))
    }
    kl = read_interval(found.get("kl")) or Interval(0.0, 0.0, 0.0)
    place, outside = f"{PLACE}/policies/{step_to(stage)}", not found.get("between")
    return BestOfRow(stage, place, kl, _figures(found), ahead, outside)


def _figures(found: Mapping[str, Any]) -> dict[str, Interval]:
    read = {name: read_interval(found.get(name)) for name in MEASURES}
    return {name: figure for name, figure in read.items() if figure}


def _chart(
    name: str,
    points: Sequence[BestOfRow],
    policies: Sequence[BestOfRow],
    palette: Mapping[str, int],
    curve: str,
) -> Chart:
    title, in_percent = MEASURES[name]
    scale = 100 if in_percent else 1
    line = Path(
        curve,
        palette[curve],
        [row.kl.estimate for row in points],
        [scale * row.figures[name].estimate for row in points],
        [row.label.removeprefix("best of ") for row in points],
    )
    dots = [
        Point(
            row.label,
            palette[row.label],
            row.kl,
            Interval(*(scale * end for end in row.figures[name])),
        )
        for row in policies
        if name in row.figures
    ]
    return draw_tradeoff(f"best-of-{name}", title, line, dots, SOURCE)
