"""Put the run's outcome in a paragraph of words, each figure one that was measured.

A sentence whose numbers are missing is left out; a difference whose interval includes 0 is called
that, never a gain or a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.report.gather import BASE, Cell, RunRecord
from pipeline.report.statistics import Change
from pipeline.report.tables import MEAN, NO_PTX, PTX, SFT, Following, Recovery, TaxCell
from pipeline.report.words import digits, interval, percent, points


def write_verdict(
    run: RunRecord,
    tax: Mapping[Cell, TaxCell],
    following: Sequence[Following],
    recovered: Sequence[Recovery],
) -> list[str]:
    """Return the sentences of the verdict; one sentence says so where nothing was measured."""
    sentences = [
        *_following(following),
        *_wins(run, following),
        *_tax(run, tax),
        *_recovery(run, recovered),
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


def _beside(change: Change | None, other: str) -> str:
    if change is None:
        return ""
    said = f"{points(change.difference)} against {other}, 95 % interval {interval(change)}"
    return f" ({said})" if change.excludes_zero else f" ({said}: no clear difference)"


def _wins(run: RunRecord, rows: Sequence[Following]) -> Iterator[str]:
    for row in rows:
        if row.stage == PTX and row.win_rate is not None:
            judge = str(run.summary.get(PTX, {}).get("judge", "the judge"))
            spread = f", 95 % interval {interval(row.wins, shift=0.5)} %" if row.wins else ""
            yield (
                f"On the same prompts {judge} prefers PPO-ptx to SFT in {percent(row.win_rate)} % "
                f"of the cases, ties counted half{spread}."
            )


def _tax(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> Iterator[str]:
    names = {SFT: "SFT", PTX: "PPO-ptx", NO_PTX: "PPO without ptx"}
    for stage, name in names.items():
        means = {
            shots: row.change
            for shots in run.shots
            if (row := tax.get(Cell(stage, MEAN, shots))) and row.change
        }
        if not means:
            continue
        parts = ", ".join(
            f"{points(change.difference)} at {shots} shots{_mark(change)}"
            for shots, change in means.items()
        )
        yield f"The few-shot mean of {name} differs from the base by {parts}."
    fallen = {
        stage: [
            row.cell
            for row in tax.values()
            if row.cell.stage == stage
            and row.cell.task != MEAN
            and row.change
            and row.change.significant
            and row.change.difference < 0
        ]
        for stage in names
    }
    paid = [f"{names[stage]} on {len(cells)}" for stage, cells in fallen.items() if cells]
    tested = sum(row.cell.task != MEAN and row.change is not None for row in tax.values())
    if paid:
        yield f"Single tasks that fell significantly (Holm): {', '.join(paid)}."
    elif tested:
        yield f"None of {tested} single-task comparisons with the base fell significantly (Holm)."


def _mark(change: Change) -> str:
    return " (significant)" if change.significant else " (not significant)"


def _recovery(run: RunRecord, rows: Sequence[Recovery]) -> Iterator[str]:
    means = [row for row in rows if row.task == MEAN]
    shares = [row for row in means if row.share is not None]
    for row in shares:
        yield (
            f"PPO without ptx lost {percent(-row.fall.difference)} points of the mean at "
            f"{row.shots} shots; ptx recovered {percent(row.share, 0)} % of that."
        )
    if means and not shares:
        yield "PPO without ptx lost nothing clear on the mean, so there is nothing to recover."
    for stage, name in ((PTX, "PPO-ptx"), (NO_PTX, "PPO without ptx")):
        before, after = run.figure(BASE, "perplexity"), run.figure(stage, "perplexity")
        if before is not None and after is not None:
            yield (
                f"Perplexity on held-out text is {digits(after)} after {name}, "
                f"{digits(before)} before alignment."
            )


def _reward(run: RunRecord) -> Iterator[str]:
    accuracy = run.stage("reward").metric("accuracy")
    agreement = run.stage("label").metric("labeler_agreement", "agreement")
    if accuracy is None:
        return
    whose = "simulated labelers" if run.simulated else "labelers"
    beside = f", {whose} agree in {percent(agreement)} %" if agreement is not None else ""
    yield (
        f"The reward model agrees with {percent(accuracy)} % of the held-out judgments{beside}."
    )
