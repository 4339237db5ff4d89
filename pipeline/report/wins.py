"""Lay out win rates: who is preferred to whom, by which judge, and what that cost in KL.

The figures are those of ``evaluate/win_rates.json``; only where a policy's KL was not measured on
its answers it is taken from ``best_of.json`` or PPO's log, and the page says from where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.bootstrap import Interval
from pipeline.report.charts import Chart, draw_overoptimisation
from pipeline.report.gather import EVALUATE, RunRecord
from pipeline.report.values import number, read_interval
from pipeline.report.words import percent, signed
from pipeline.win_rates import to_rows

SOURCE = f"{EVALUATE}/win_rates.json"
JUDGES = {
    "gold": ("gold utility", 4),
    "reward": ("reward model", 1),
    "llm": ("language model", 3),
    "people": ("people", 2),
    "simulated": ("simulated labelers", 7),
}
"""What a judge is called and the colour of its line."""
PLACE = "/win_rates"
"""Where the figures stand in ``report.json``."""
SCORE = ("mean score, right axis", 0)
IN_TRAINING = ("reward in training", 5)
"""Win rates that PPO logged on its own held-out prompts."""
COLUMNS = (
    *("judge", "stage", "against", "win_rate", "low", "high", "ties", "same"),
    *("length_controlled", "length_controlled_low", "length_controlled_high"),
    *("characters_longer", "prompts", "comparisons"),
)
"""Columns of ``win_rates.csv``."""
MEASURED, BEST_OF, HELD_OUT, ROLLOUTS = (
    "these answers",
    f"{EVALUATE}/best_of.json",
    "eval/kl",
    "objective/kl",
)
"""Where a KL is from."""


@dataclass(frozen=True)
class PairRow:
    """Hold one judge's preference between two stages.

    Attributes:
        judge: the judge's key.
        place: where the figures stand in ``report.json``.
        same: share of comparisons of equal answers, which are ties.
        controlled: the win rate at equal lengths; None where it was not estimated, or length and
            stage cannot be told apart.
        extra: characters that the stage's answers are longer, on average.
    """

    judge: str
    place: str
    stage: str
    against: str
    rate: Interval
    ties: float | None
    same: float | None
    controlled: Interval | None
    extra: float | None
    prompts: int
    comparisons: int


@dataclass(frozen=True)
class StrengthRow:
    """Hold where a stage's strengths stand in ``report.json``, by judge."""

    stage: str
    places: Mapping[str, str]


@dataclass(frozen=True)
class WayPoint:
    """Hold one point of a policy's way from its start.

    Attributes:
        kl: nats a completion; None where nothing tells it.
        kl_source: where it is from.
        overstated: judge to how much the reward model's win rate is above the judge's.
    """

    name: str
    step: int | None
    kl: Interval | None
    kl_source: str | None
    score: Interval | None
    rates: Mapping[str, Interval]
    overstated: Mapping[str, Interval]


@dataclass(frozen=True)
class Way:
    """Hold a policy's way from its start."""

    stage: str
    start: str
    points: Sequence[WayPoint]
    sentences: Sequence[str]


@dataclass(frozen=True)
class Wins:
    """Hold what the page shows of win rates."""

    pairs: Sequence[PairRow]
    strengths: Sequence[StrengthRow]
    judges: Sequence[str]
    ways: Sequence[Way]
    charts: Sequence[Chart]
    palette: Mapping[str, int]

    @property
    def has_people(self) -> bool:
        """Tell whether labelers are among the judges."""
        return not {"people", "simulated"}.isdisjoint(self.judges)


def lay_out_wins(run: RunRecord) -> Wins | None:
    """Return the tables and charts of win rates, None where stages were not compared."""
    found = {
        judge: figures
        for judge in JUDGES
        if isinstance(figures := run.wins.get("judges", {}).get(judge), Mapping)
    }
    if not found:
        return None
    ways = [_way(run, each) for each in run.wins.get("trajectories", ()) if each.get("points")]
    drawn = [way for way in ways if sum(point.kl is not None for point in way.points) > 1]
    used = {judge for way in drawn for point in way.points for judge in point.rates}
    scored = any(point.score for way in drawn for point in way.points)
    palette = {name: colour for judge, (name, colour) in JUDGES.items() if judge in used}
    if any(list(_training(run, way.stage)) for way in drawn):
        palette |= dict([IN_TRAINING])
    if scored:
        palette |= dict([SCORE])
    return Wins(
        pairs=[row for judge, figures in found.items() for row in _pairs(judge, figures)],
        strengths=_strengths(found),
        judges=list(found),
        ways=ways,
        charts=[_chart(run, way) for way in drawn],
        palette=palette,
    )


def wins_rows(wins: Wins) -> Iterator[Mapping[str, Any]]:
    """Yield the table of pairs for a spreadsheet, rates as fractions."""
    for row in wins.pairs:
        values = (
            *(row.judge, row.stage, row.against, *row.rate, row.ties, row.same),
            *(row.controlled or (None, None, None)),
            *(row.extra, row.prompts, row.comparisons),
        )
        yield dict(zip(COLUMNS, values, strict=True))


def wins_numbers(run: RunRecord, wins: Wins) -> dict[str, Any]:
    """Return what ``report.json`` has: the file's figures, and the ways as the page shows them."""
    return {**run.wins, "trajectories": to_rows(wins.ways)}


def _pairs(judge: str, figures: Mapping[str, Any]) -> Iterator[PairRow]:
    for i, row in enumerate(figures.get("pairs", ())):
        controlled = row.get("length_controlled") or {}
        told = not controlled.get("separated")
        rate = read_interval(row.get("win_rate"))
        if rate is not None:
            yield PairRow(
                judge=judge,
                place=f"{PLACE}/judges/{judge}/pairs/{i}",
                stage=str(row["stage"]),
                against=str(row["against"]),
                rate=rate,
                ties=number(row.get("ties")),
                same=number(row.get("same")),
                controlled=read_interval(controlled.get("win_rate")) if told else None,
                extra=number(row.get("longer")),
                prompts=int(row.get("prompts", 0)),
                comparisons=int(row.get("comparisons", 0)),
            )


def _strengths(found: Mapping[str, Mapping[str, Any]]) -> list[StrengthRow]:
    rows: dict[str, dict[str, str]] = {}
    for judge, figures in found.items():
        for i, row in enumerate(figures.get("strengths", ())):
            if read_interval(row.get("strength")) is not None:
                place = f"{PLACE}/judges/{judge}/strengths/{i}"
                rows.setdefault(str(row["stage"]), {})[judge] = place
    return [StrengthRow(stage, places) for stage, places in rows.items()]


def _way(run: RunRecord, found: Mapping[str, Any]) -> Way:
    stage, start = str(found["stage"]), str(found["start"])
    points = [_point(run, each, stage) for each in found["points"]]
    return Way(stage, start, points, list(_describe(points[-1], stage, start)))


def _point(run: RunRecord, found: Mapping[str, Any], stage: str) -> WayPoint:
    kl, source = read_interval(found.get("kl")), MEASURED
    if kl is None and found.get("step") is None:
        kl, source = _kl_elsewhere(run, stage)
    return WayPoint(
        name=str(found["name"]),
        step=found.get("step"),
        kl=kl,
        kl_source=source if kl else None,
        score=read_interval(found.get("score")),
        rates=_intervals(found.get("win_rates")),
        overstated=_intervals(found.get("overstated")),
    )


def _kl_elsewhere(run: RunRecord, stage: str) -> tuple[Interval | None, str]:
    """Return a finished policy's KL as best-of-n's comparison or its training measured it."""
    best_of = run.best_of.get("policies", {}).get(stage, {})
    kl = read_interval(best_of.get("kl"))
    if kl is not None:
        return kl, BEST_OF
    record = run.stage(stage)
    for key in (HELD_OUT, ROLLOUTS):
        curve = record.curves.get(key)
        if curve is not None and curve.values:
            last = curve.values[-1]
            return Interval(last, last, last), f"{stage}/metrics.jsonl, {key}"
    return None, ""


def _describe(last: WayPoint, stage: str, start: str) -> Iterator[str]:
    """Say by how much the reward model overstates the gain, a sentence a judge."""
    trained_on = last.rates.get("reward")
    for judge, gap in last.overstated.items():
        if trained_on is None or judge not in last.rates:
            continue
        name = JUDGES[judge][0] if judge in JUDGES else judge
        verdict = "no clear difference"
        if gap.excludes_zero:
            verdict = "the reward model " + ("over" if gap.estimate > 0 else "under") + "states it"
        yield (
            f"Against {start}, {stage} wins {percent(trained_on.estimate)} % by the reward model "
            f"and {percent(last.rates[judge].estimate)} % by {name}: {signed(gap.estimate)} points "
            f"(95 % interval {signed(gap.low)} to {signed(gap.high)}), {verdict}."
        )


def _chart(run: RunRecord, way: Way) -> Chart:
    placed = sorted(
        ((point.kl, point) for point in way.points if point.kl is not None),
        key=lambda item: item[0].estimate,
    )
    even = Interval(0.5, 0.5, 0.5)
    lines: dict[str, tuple[int, list[tuple[Interval, Interval]]]] = {}
    for judge, (name, colour) in JUDGES.items():
        points = [(kl, point.rates[judge]) for kl, point in placed if judge in point.rates]
        if points:
            # A policy is as often better as worse than itself.
            start = [(kl, even) for kl, point in placed if point.name == way.start]
            lines[name] = (colour, [*start, *points])
    if logged := list(_training(run, way.stage)):
        lines[IN_TRAINING[0]] = (IN_TRAINING[1], logged)
    scores = [(kl, point.score) for kl, point in placed if point.score is not None]
    title = f"{way.stage}: win rate against {way.start}, and score"
    name = "wins-" + way.stage.replace("@", "-")
    return draw_overoptimisation(name, title, lines, scores, SCORE[1], SOURCE)


def _training(run: RunRecord, stage: str) -> Iterator[tuple[Interval, Interval]]:
    """Yield KL and win rate of the evaluations in training, in the order of their KL."""
    kls, rates = (run.stage(stage).curves.get(key) for key in (HELD_OUT, "eval/win_rate"))
    if kls is not None and rates is not None and kls.steps == rates.steps:
        for kl, rate in sorted(zip(kls.values, rates.values, strict=True)):
            yield Interval(kl, kl, kl), Interval(rate, rate, rate)


def _intervals(found: Any) -> dict[str, Interval]:
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {str(key): value for key, row in pairs if (value := read_interval(row))}
