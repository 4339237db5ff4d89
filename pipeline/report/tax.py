"""Measure the alignment tax: what each stage scores on the few-shot tasks, and what ptx recovers.

Scores and standard errors are taken as the evaluation wrote them; differences are computed from
the single documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config.ppo import PpoSection
from pipeline.config.run import RunConfig
from pipeline.report.gather import Cell, RunRecord
from pipeline.report.statistics import Change, adjust, compare, pair

MEAN = "mean over tasks"
PTX = "ppo"
NO_PTX = "ppo@no_ptx"


@dataclass(frozen=True)
class TaxCell:
    """Hold one stage's score on one task, or on their mean, and its change against the base.

    Attributes:
        cell: stage, task and shots; the task is ``MEAN`` for the mean.
        score: accuracy, as a fraction.
        stderr: its standard error.
        n: documents.
        cut: contexts that were too long for the model, and cut on the left.
        ece: expected calibration error.
        brier: Brier score.
        change: against the base; None for the base, and where documents are missing.
    """

    cell: Cell
    score: float | None
    stderr: float | None
    n: int
    cut: int
    ece: float | None
    brier: float | None
    change: Change | None = None


@dataclass(frozen=True)
class Recovery:
    """Hold how much of PPO's fall ptx brings back, on one task or the mean.

    Attributes:
        start: score where PPO started.
        fall: plain PPO against the start.
        gain: PPO-ptx against plain PPO.
        share: gain / -fall, where plain PPO fell significantly; else None.
    """

    task: str
    shots: int | None
    start: float
    fall: Change
    gain: Change

    @property
    def share(self) -> float | None:
        """Return the share of the fall that is recovered; None where there was no clear fall."""
        fell = self.fall.significant and self.fall.difference < 0
        return self.gain.difference / -self.fall.difference if fell else None


def tax_table(run: RunRecord, seed: int) -> dict[Cell, TaxCell]:
    """Return every score and its change against the base, tasks and their means.

    Holm's families are the task comparisons together, and the means together. A mean gives every
    task the same weight. In the mean over all shots a document counts once, with the mean of its
    answers: it was drawn once.
    """
    scored = {cell for cell, figures in run.scores.items() if "acc" in figures}
    stages = [stage for stage in run.evaluated if any(cell.stage == stage for cell in scored)]
    tasks = {cell: _tax_cell(run, cell, seed) for cell in run.scores if cell in scored}
    means = {
        Cell(stage, MEAN, shots): _mean_cell(run, stage, shots, seed)
        for shots in ([*run.shots, None] if run.shots else [])
        for stage in stages
    }
    return {**_adjusted(tasks), **_adjusted(means)}


def recoveries(run: RunRecord, config: RunConfig, seed: int) -> list[Recovery]:
    """Return what ptx recovers, a row a task and one for the mean, for each number of shots.

    The fall is measured from PPO's start where that stage was evaluated, else from the base.
    """
    start = ptx_start(run, config)
    if start is None or not {PTX, NO_PTX} <= set(run.evaluated):
        return []
    wanted = [(task, shots) for shots in run.shots for task in _tasks_at(run, shots)]
    rows: dict[tuple[str, int | None], Recovery] = {}
    for task, shots in [*wanted, (MEAN, None)]:
        fall = _change(run, task, shots, NO_PTX, start, seed)
        gain = _change(run, task, shots, PTX, NO_PTX, seed)
        score = _mean(run, Cell(start, task, shots), "acc")
        if fall is not None and gain is not None and score is not None:
            rows[task, shots] = Recovery(task, shots, score, fall, gain)
    falls = adjust({key: row.fall for key, row in rows.items()})
    gains = adjust({key: row.gain for key, row in rows.items()})
    return [
        Recovery(row.task, row.shots, row.start, falls[key], gains[key])
        for key, row in rows.items()
    ]


def _tasks_at(run: RunRecord, shots: int) -> list[str]:
    return [*(task for task, count in run.plan if count == shots), MEAN]


def ptx_start(run: RunRecord, config: RunConfig) -> str | None:
    """Return the stage that PPO's fall is measured from, or None where neither was evaluated."""
    section = config.stages.get(PTX)
    wanted = [section.init] if isinstance(section, PpoSection) else []
    scored = {cell.stage for cell in run.scores}
    return next((stage for stage in [*wanted, run.base] if stage in scored), None)


def _tax_cell(run: RunRecord, cell: Cell, seed: int) -> TaxCell:
    figures = run.scores[cell]
    change = None
    if cell.stage != run.base:
        change = _change(run, cell.task, cell.shots, cell.stage, run.base, seed)
    return TaxCell(
        cell,
        figures.get("acc"),
        figures.get("stderr"),
        int(figures.get("n", 0)),
        int(figures.get("cut_contexts", 0)),
        figures.get("ece"),
        figures.get("brier"),
        change,
    )


def _mean_cell(run: RunRecord, stage: str, shots: int | None, seed: int) -> TaxCell:
    mean = Cell(stage, MEAN, shots)
    cells = [run.scores.get(cell, {}) for group in _cells(run, mean) for cell in group]
    errors = [cell["stderr"] for cell in cells if "stderr" in cell]
    # Answers to one document at several numbers of shots hang together: no plain sum of variances.
    apart = shots is not None and len(errors) == len(cells)
    return TaxCell(
        mean,
        _mean(run, mean, "acc"),
        math.sqrt(sum(error**2 for error in errors)) / len(errors) if apart else None,
        int(sum(cell.get("n", 0) for cell in cells)),
        int(sum(cell.get("cut_contexts", 0) for cell in cells)),
        _mean(run, mean, "ece"),
        _mean(run, mean, "brier"),
        None if stage == run.base else _change(run, MEAN, shots, stage, run.base, seed),
    )


def _cells(run: RunRecord, cell: Cell) -> list[list[Cell]]:
    """Return the single measurements that a mean is over, a list a task."""
    groups: dict[str, list[Cell]] = {}
    for task, shots in run.plan:
        if cell.task in (MEAN, task) and cell.shots in (None, shots):
            groups.setdefault(task, []).append(Cell(cell.stage, task, shots))
    return list(groups.values())


def _mean(run: RunRecord, cell: Cell, key: str) -> float | None:
    """Return the mean over tasks of the mean over their shots; None where one is missing."""
    means = []
    for group in _cells(run, cell):
        values = [run.scores[each][key] for each in group if key in run.scores.get(each, {})]
        if len(values) < len(group):
            return None
        means.append(sum(values) / len(values))
    return sum(means) / len(means) if means else None


def _change(
    run: RunRecord, task: str, shots: int | None, later: str, earlier: str, seed: int
) -> Change | None:
    groups = []
    for cells in _cells(run, Cell(later, task, shots)):
        both = [[each._replace(stage=stage) for each in cells] for stage in (later, earlier)]
        groups.append(pair(*(_outcomes(run, side) for side in both)))
    return compare(groups, seed)


def _outcomes(run: RunRecord, cells: Sequence[Cell]) -> Mapping[str, float]:
    """Return each document's outcome, its mean over several numbers of shots."""
    outcomes = [run.documents[each].correct if each in run.documents else {} for each in cells]
    whole = set.intersection(*(set(each) for each in outcomes)) if outcomes else set()
    return {doc: sum(each[doc] for each in outcomes) / len(outcomes) for doc in whole}


def _adjusted(cells: Mapping[Cell, TaxCell]) -> dict[Cell, TaxCell]:
    changes = adjust({key: row.change for key, row in cells.items() if row.change is not None})
    return {key: replace(row, change=changes.get(key)) for key, row in cells.items()}
