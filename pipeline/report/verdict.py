"""Put the run's outcome in a paragraph of words, each figure one that was measured.

A sentence whose numbers are missing is left out; a difference whose interval includes 0 is called
that, never a gain or a loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.gate import GateRow
from pipeline.report.gather import Cell, RunRecord
from pipeline.report.outcomes import SFT, Following, read_ahead
from pipeline.report.statistics import Change
from pipeline.report.tax import MEAN, NO_PTX, PTX, Recovery, TaxCell
from pipeline.report.words import digits, interval, percent, points, signed, signed_digits

NAMES = {SFT: "SFT", PTX: "PPO-ptx", NO_PTX: "PPO without ptx"}


@dataclass(frozen=True)
class Findings:
    """Hold what the verdict is made from.

    Attributes:
        tax: the tax table.
        following: answers to the held-out prompts.
        recovered: what ptx recovers.
        calibration: rows of the calibration table.
        language: rows of the table of held-out text.
        gate: what ``evaluate.max_tax`` says of each stage.
    """

    tax: Mapping[Cell, TaxCell]
    following: Sequence[Following]
    recovered: Sequence[Recovery]
    calibration: Sequence[Mapping[str, Any]]
    language: Sequence[Mapping[str, Any]]
    gate: Sequence[GateRow]


def write_verdict(run: RunRecord, found: Findings) -> list[str]:
    """Return the sentences of the verdict; one sentence says so where nothing was measured."""
    sentences = [
        *_following(run, found.following),
        *_wins(run, found.following),
        *_tax(run, found.tax),
        *_gate(found.gate),
        *_recovery(found.recovered),
        *_calibration(run, found.calibration),
        *_cut(run, found.tax),
        *_language(run, found.language),
        *_reward(run),
    ]
    whose = "model" if run.models else "stage of this run"
    return sentences or [f"No {whose} has been evaluated yet."]


def _names(run: RunRecord) -> Mapping[str, str]:
    """Return the stages that the verdict speaks of beside the base, with their names in words."""
    return {name: name for name in run.models if name != run.base} if run.models else NAMES


def _base(run: RunRecord) -> str:
    return run.base if run.models else "the base"


def _following(run: RunRecord, rows: Sequence[Following]) -> Iterator[str]:
    by_stage = {row.stage: row for row in rows if row.rate is not None}
    base = by_stage.get(run.base)
    if base is not None:
        name = _base(run) if run.models else "The base"
        yield f"{name} follows {percent(base.rate)} % of the held-out instructions."
    for stage, name in _names(run).items():
        row = by_stage.get(stage)
        if row is not None and stage != NO_PTX:
            before_sft = row.against_sft is not None
            change = row.against_sft if before_sft else row.against_base
            other = NAMES[SFT] if before_sft else _base(run)
            yield f"{name} follows {percent(row.rate)} %{_beside(change, other)}."
    for row in rows:
        score = row.score_against_sft
        if row.stage == PTX and row.score is not None and score is not None:
            doubt = "" if score.excludes_zero else ": no clear difference"
            yield (
                f"The reward model scores PPO-ptx {digits(row.score, 2)} on average, "
                f"{signed_digits(score.difference, 2)} against SFT (95 % interval "
                f"{signed_digits(score.low, 2)} to {signed_digits(score.high, 2)}{doubt})."
            )


def _beside(change: Change | None, other: str) -> str:
    if change is None:
        return ""
    said = f"{points(change.difference)} against {other}, 95 % interval {interval(change)}"
    return f" ({said})" if change.excludes_zero else f" ({said}: no clear difference)"


def _wins(run: RunRecord, rows: Sequence[Following]) -> Iterator[str]:
    named = _names(run) if run.models else {PTX: NAMES[PTX]}
    rival = run.rival if run.models else NAMES[SFT]
    for row in rows:
        if row.stage in named and row.win_rate is not None:
            judge = "the reward model" if row.utility is None else "the gold utility"
            spread = f", 95 % interval {interval(row.wins, shift=0.5)} %" if row.wins else ""
            yield (
                f"On the same prompts {judge} prefers {named[row.stage]} to {rival} in "
                f"{percent(row.win_rate)} % of the cases, ties counted half{spread}."
            )


def _tax(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> Iterator[str]:
    parts, names = [], _names(run)
    for stage, name in names.items():
        mean = tax.get(Cell(stage, MEAN, None))
        if mean and mean.change:
            doubt = "" if mean.change.significant else ", not significant"
            parts.append(
                f"{name} {points(mean.change.difference)} ({interval(mean.change)}{doubt})"
            )
    if parts:
        yield f"Against {_base(run)}, the few-shot mean over all shots changes: {'; '.join(parts)}."
    yield from _fallen(run, tax)


def _fallen(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> Iterator[str]:
    """Count the tasks that fell at every stage that was compared, named in the verdict or not."""
    changes = [
        (row.cell.stage, row.change) for row in tax.values() if row.cell.task != MEAN and row.change
    ]
    counts = Counter(stage for stage, change in changes if _fell(change))
    whole = f"{len(changes)} single-task comparisons with {_base(run)}"
    if counts:
        names = _names(run)
        fallen = [f"{names.get(stage, stage)} on {count}" for stage, count in counts.items()]
        yield f"Of {whole}, significantly lower: {', '.join(fallen)} (Holm)."
    elif changes:
        yield f"None of {whole} fell significantly."


def _fell(change: Change) -> bool:
    return change.significant and change.difference < 0


def _gate(rows: Sequence[GateRow]) -> Iterator[str]:
    if rows:
        failed = [row.stage for row in rows if not row.passed]
        outcome = f"broken by {' and '.join(failed)}" if failed else "which every stage keeps to"
        yield f"A fall of {percent(rows[0].max_tax)} points is allowed, {outcome}."


def _recovery(rows: Sequence[Recovery]) -> Iterator[str]:
    for row in rows:
        if row.task == MEAN and row.shots is None:
            if row.share is None:
                yield "PPO without ptx lost nothing clear on that mean: ptx has nothing to recover."
            else:
                yield (
                    f"PPO without ptx lost {percent(-row.fall.difference)} points of its start's "
                    f"mean, and ptx recovered {percent(row.share, 0)} % of that."
                )


def _calibration(run: RunRecord, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say how sure the models are of their answers, at the most examples that were shown."""
    means = [row for row in rows if row["task"] == MEAN]
    most = max((row["shots"] for row in means), default=None)
    at_most = {row["stage"]: row for row in means if row["shots"] == most}
    base = at_most.get(run.base)
    if base is None or base["overconfidence"] is None:
        return
    parts = []
    for stage, name in _names(run).items():
        change = at_most.get(stage, {}).get("overconfidence_change")
        if change:
            clear = change["low"] > 0 or change["high"] < 0
            parts.append(
                f"{name} {points(change['difference'])} ({signed(change['low'])} to "
                f"{signed(change['high'])}{'' if clear else ', no clear difference'})"
            )
    shots = "1 example" if most == 1 else f"{most} examples"
    changed = f"; it changes: {'; '.join(parts)}" if parts else ""
    yield (
        f"With {shots}, confidence less accuracy is {points(base['overconfidence'])} at "
        f"{_base(run)}{changed}."
    )


def _cut(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> Iterator[str]:
    """Say it once for all that cut as many: stages of a line read the same contexts."""
    found: dict[tuple[int, int], list[str]] = {}
    for stage in run.evaluated:
        mean = tax.get(Cell(stage, MEAN, None))
        if mean and mean.cut:
            found.setdefault((mean.cut, mean.n), []).append(stage)
    for (cut, n), stages in found.items():
        *others, last = stages
        names = f"{', '.join(others)} and {last}" if others else last
        contexts = "1 context was" if cut == 1 else f"{digits(cut, 0)} contexts were"
        yield (
            f"{contexts} too long for {names} and cut on the left "
            f"({digits(n, 0)} questions asked{' of each' if others else ''})."
        )


def _language(run: RunRecord, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Speak of perplexity where all read the text in the same tokens, else of bits per byte."""
    named = [row for row in rows if row["stage"] in _names(run)]
    yield from _perplexity(run) if all(row["same_tokens"] for row in named) else _bits(run, named)


def _bits(run: RunRecord, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    before = run.figure(run.base, "bits_per_byte")
    names = _names(run)
    after = [
        f"{digits(row['bits_per_byte'], 3)} at {names[row['stage']]}{_in_bits(row['against_base'])}"
        for row in rows
        if row["bits_per_byte"] is not None
    ]
    if before is not None and after:
        yield (
            f"Held-out text costs {digits(before, 3)} bits per byte at {_base(run)}, "
            f"{', '.join(after)}; perplexities do not compare, for the tokens differ."
        )


def _in_bits(change: Change | None) -> str:
    if change is None:
        return ""
    doubt = "" if change.significant else ", not significant"
    low, high = (signed_digits(end, 3) for end in (change.low, change.high))
    return f" ({signed_digits(change.difference, 3)}, 95 % interval {low} to {high}{doubt})"


def _perplexity(run: RunRecord) -> Iterator[str]:
    before = run.figure(run.base, "perplexity")
    beside = "at" if run.models else "after"
    after = [
        f"{digits(value, 2)} {beside} {name}"
        for stage, name in _names(run).items()
        if (value := run.figure(stage, "perplexity")) is not None
    ]
    if before is not None and after:
        yield (
            f"Perplexity on held-out text is {digits(before, 2)} at {_base(run)}, "
            f"{', '.join(after)}."
        )


def _reward(run: RunRecord) -> Iterator[str]:
    accuracy = run.stage("reward").metric("accuracy")
    agreement = run.stage("label").metric("labeler_agreement")
    if accuracy is None:
        return
    whose = "simulated labelers" if run.simulated else "labelers"
    beside = f", {whose} agree in {percent(agreement)} %" if agreement is not None else ""
    yield f"The reward model agrees with {percent(accuracy)} % of the held-out judgments{beside}."
    parts = []
    for name, floor in run.accuracy.get("floors", {}).items():
        ahead = read_ahead(floor)
        if ahead is not None:
            doubt = "" if ahead.excludes_zero else ": no clear difference"
            parts.append(
                f"{points(ahead.estimate)} against {name.replace('_', ' ')} (95 % interval "
                f"{signed(ahead.low)} to {signed(ahead.high)}{doubt})"
            )
    if parts:
        yield f"Beside its floors that is {', '.join(parts)}."
