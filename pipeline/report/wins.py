"""Lay out win rates: who is preferred to whom, by which judge, and what that cost in KL.

The figures are those of ``evaluate/win_rates.json``; only where a policy's KL was not measured on
its answers it is taken from ``best_of.json`` or PPO's log, and the page says from where.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.bootstrap import Interval
from pipeline.report.charts import Chart, draw_overoptimisation
from pipeline.report.gather import EVALUATE, RunRecord, number
from pipeline.report.words import percent, signed

SOURCE = f"{EVALUATE}/win_rates.json"
JUDGES = {
    "gold": ("gold utility", 4),
    "reward": ("reward model", 1),
    "llm": ("language model", 3),
    "people": ("people", 2),
    "simulated": ("simulated labelers", 7),
}
"""What a judge is called and the colour of its line."""
SCORE = ("mean score, right axis", 0)
IN_TRAINING = ("reward in training", 5)
"""Win rates that PPO logged on its own held-out prompts."""
COLUMNS = (
    *("judge", "stage", "against", "win_rate", "low", "high", "ties", "same"),
    *("length_controlled", "length_controlled_low", "length_controlled_high"),
    *("characters_longer", "prompts", "comparisons"),
)
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
        same: share of comparisons of equal answers, which are ties.
        controlled: the win rate at equal lengths; None where it was not estimated.
        longer_wins: log odds by which a longer answer is preferred; None as above.
        separated: whether length and stage cannot be told apart.
        extra: characters that the stage's answers are longer, on average.
    """

    judge: str
    stage: str
    against: str
    rate: Interval
    ties: float | None
    same: float | None
    controlled: Interval | None
    longer_wins: float | None
    separated: bool
    extra: float | None
    prompts: int
    comparisons: int


@dataclass(frozen=True)
class StrengthRow:
    """Hold a stage's strengths, judge to interval, and by which judges they are not finite."""

    stage: str
    strengths: Mapping[str, Interval]
    infinite: frozenset[str]


@dataclass(frozen=True)
class JudgeRow:
    """Hold how a judge judges."""

    judge: str
    model: str | None
    prompts: int
    comparisons: int
    ties: float | None
    first_preferred: Interval | None
    disagreed: float | None
    without_verdict: int | None


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
    judges: Sequence[JudgeRow]
    ways: Sequence[Way]
    charts: Sequence[Chart]
    palette: Mapping[str, int]

    @property
    def rated_by(self) -> list[str]:
        """Return the judges that give strengths, in the order of their tables."""
        return [row.judge for row in self.judges]

    @property
    def has_people(self) -> bool:
        """Tell whether labelers are among the judges."""
        return any(row.judge in ("people", "simulated") for row in self.judges)


def lay_out_wins(run: RunRecord) -> Wins | None:
    """Return the tables and charts of win rates, None where stages were not compared."""
    found = {
        judge: figures
        for judge in JUDGES
        if isinstance(figures := run.wins.get("judges", {}).get(judge), Mapping)
    }
    if not found:
        return None
    ways = [_way(run, each) for each in run.wins.get("trajectories", ())]
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
        judges=[_judge(judge, figures) for judge, figures in found.items()],
        ways=ways,
        charts=[_chart(run, way) for way in drawn],
        palette=palette,
    )


def write_wins_csv(wins: Wins) -> str:
    """Return the table of pairs for a spreadsheet, rates as fractions."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in wins.pairs:
        ends = row.controlled or (None, None, None)
        values = (
            row.judge,
            row.stage,
            row.against,
            *row.rate,
            row.ties,
            row.same,
            *ends,
            row.extra,
        )
        table.writerow(dict(zip(COLUMNS, (*values, row.prompts, row.comparisons), strict=True)))
    return text.getvalue()


def wins_numbers(run: RunRecord, wins: Wins) -> dict[str, Any]:
    """Return what ``report.json`` has: the file's figures, and the ways as the page shows them."""
    return {**run.wins, "trajectories": [asdict(way) for way in wins.ways]}


def _pairs(judge: str, figures: Mapping[str, Any]) -> Iterator[PairRow]:
    for row in figures.get("pairs", ()):
        controlled = row.get("length_controlled") or {}
        rate = read_interval(row.get("win_rate"))
        if rate is not None:
            yield PairRow(
                judge=judge,
                stage=str(row["stage"]),
                against=str(row["against"]),
                rate=rate,
                ties=number(row.get("ties")),
                same=number(row.get("same")),
                controlled=read_interval(controlled.get("win_rate")),
                longer_wins=number(controlled.get("coefficient")),
                separated=bool(controlled.get("separated")),
                extra=number(row.get("longer")),
                prompts=int(row.get("prompts", 0)),
                comparisons=int(row.get("comparisons", 0)),
            )


def _strengths(found: Mapping[str, Mapping[str, Any]]) -> list[StrengthRow]:
    rows: dict[str, dict[str, Interval]] = {}
    infinite: dict[str, set[str]] = {}
    for judge, figures in found.items():
        for row in figures.get("strengths", ()):
            strength = read_interval(row.get("strength"))
            if strength is not None:
                rows.setdefault(str(row["stage"]), {})[judge] = strength
                if row.get("separated"):
                    infinite.setdefault(str(row["stage"]), set()).add(judge)
    return [
        StrengthRow(stage, own, frozenset(infinite.get(stage, ()))) for stage, own in rows.items()
    ]


def _judge(judge: str, figures: Mapping[str, Any]) -> JudgeRow:
    silent = number(figures.get("without_verdict"))
    return JudgeRow(
        judge=judge,
        model=figures.get("model"),
        prompts=int(figures.get("prompts", 0)),
        comparisons=int(figures.get("comparisons", 0)),
        ties=number(figures.get("ties")),
        first_preferred=read_interval(figures.get("first_preferred")),
        disagreed=number(figures.get("disagreed")),
        without_verdict=None if silent is None else int(silent),
    )


def _way(run: RunRecord, found: Mapping[str, Any]) -> Way:
    stage, start = str(found["stage"]), str(found["start"])
    points = [_point(run, each, stage) for each in found.get("points", ())]
    return Way(stage, start, points, list(_describe(points[-1], stage, start)) if points else [])


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


def read_interval(found: Any) -> Interval | None:
    """Return a figure with its interval, or None where one of its numbers is missing."""
    if not isinstance(found, Mapping):
        return None
    ends = [number(found.get(name)) for name in Interval._fields]
    whole = [end for end in ends if end is not None]
    return Interval(*whole) if len(whole) == len(ends) else None
