"""Put the run's outcome in a paragraph of words, each figure one that was measured.

A sentence whose numbers are missing is left out; a difference whose interval includes 0 is called
that, never a gain or a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.report.gather import BASE, Cell, RunRecord
from pipeline.report.outcomes import SFT, Following, read_ahead
from pipeline.report.statistics import Change
from pipeline.report.tax import MEAN, NO_PTX, PTX, Recovery, TaxCell
from pipeline.report.words import digits, interval, percent, points, signed, signed_digits

NAMES = {SFT: "SFT", PTX: "PPO-ptx", NO_PTX: "PPO without ptx"}


def write_verdict(
    run: RunRecord,
    tax: Mapping[Cell, TaxCell],
    following: Sequence[Following],
    recovered: Sequence[Recovery],
) -> list[str]:
    """Return the sentences of the verdict; one sentence says so where nothing was measured."""
    sentences = [
        *_following(following),
        *_wins(following),
        *_tax(run, tax),
        *_recovery(recovered),
        *_perplexity(run),
        *_reward(run),
    ]
    return sentences or ["No stage of this run has been evaluated yet."]


def _following(rows: Sequence[Following]) -> Iterator[str]:
    by_stage = {row.stage: row for row in rows if row.rate is not None}
    base, sft, ppo = (by_stage.get(stage) for stage in (BASE, SFT, PTX))
    if base is not None:
        yield f"The base follows {percent(base.rate)} % of the held-out instructions."
    if sft is not None:
        yield f"SFT follows {percent(sft.rate)} %{_beside(sft.against_base, 'the base')}."
    if ppo is not None:
        yield f"PPO-ptx follows {percent(ppo.rate)} %{_beside(ppo.against_sft, 'SFT')}."
    for row in rows:
        change = row.score_against_sft
        if row.stage == PTX and row.score is not None and change is not None:
            doubt = "" if change.excludes_zero else ": no clear difference"
            yield (
                f"The reward model scores PPO-ptx {digits(row.score, 2)} on average, "
                f"{signed_digits(change.difference, 2)} against SFT (95 % interval "
                f"{signed_digits(change.low, 2)} to {signed_digits(change.high, 2)}{doubt})."
            )


def _beside(change: Change | None, other: str) -> str:
    if change is None:
        return ""
    said = f"{points(change.difference)} against {other}, 95 % interval {interval(change)}"
    return f" ({said})" if change.excludes_zero else f" ({said}: no clear difference)"


def _wins(rows: Sequence[Following]) -> Iterator[str]:
    for row in rows:
        if row.stage == PTX and row.win_rate is not None:
            judge = "the reward model" if row.utility is None else "the gold utility"
            spread = f", 95 % interval {interval(row.wins, shift=0.5)} %" if row.wins else ""
            yield (
                f"On the same prompts {judge} prefers PPO-ptx to SFT in {percent(row.win_rate)} % "
                f"of the cases, ties counted half{spread}."
            )


def _tax(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> Iterator[str]:
    parts = []
    for stage, name in NAMES.items():
        mean = tax.get(Cell(stage, MEAN, None))
        if mean and mean.change:
            doubt = "" if mean.change.significant else ", not significant"
            parts.append(
                f"{name} {points(mean.change.difference)} ({interval(mean.change)}{doubt})"
            )
    if parts:
        yield f"Against the base, the few-shot mean over all shots changes: {'; '.join(parts)}."
    compared = [row for row in tax.values() if row.cell.task != MEAN and row.change]
    fallen = [row for row in compared if row.change and _fell(row.change)]
    counts = {name: sum(row.cell.stage == stage for row in fallen) for stage, name in NAMES.items()}
    paid = [f"{name} on {count}" for name, count in counts.items() if count]
    if paid:
        each = len(run.tasks) * len(run.shots)
        yield f"Of {each} task scores each, significantly lower: {', '.join(paid)} (Holm)."
    elif compared:
        yield f"None of {len(compared)} single-task comparisons with the base fell significantly."


def _fell(change: Change) -> bool:
    return change.significant and change.difference < 0


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


def _perplexity(run: RunRecord) -> Iterator[str]:
    before = run.figure(BASE, "perplexity")
    after = [
        f"{digits(value, 2)} after {name}"
        for stage, name in NAMES.items()
        if (value := run.figure(stage, "perplexity")) is not None
    ]
    if before is not None and after:
        yield f"Perplexity on held-out text is {digits(before, 2)} at the base, {', '.join(after)}."


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
