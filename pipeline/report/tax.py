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
from pipeline.report.gather import BASE, Cell, RunRecord
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
        ece: expected calibration error.
        brier: Brier score.
        change: against the base; None for the base, and where documents are missing.
    """

    cell: Cell
    score: float | None
    stderr: float | None
    n: int
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

    Holm's families are the task comparisons together, and the means together. In the mean over all
    shots a document counts once, with the mean of its answers: it was drawn once.
    """
    stages = [stage for stage in run.evaluated if any(cell.stage == stage for cell in run.scores)]
    tasks = {cell: _tax_cell(run, cell, seed) for cell in run.scores}
    means = {
        Cell(stage, MEAN, shots): _mean_cell(run, stage, shots, seed)
        for shots in [*run.shots, None]
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
    rows: dict[tuple[str, int | None], Recovery] = {}
    for shots in [*run.shots, None]:
        for task in [*run.tasks, MEAN] if shots is not None else [MEAN]:
            fall = _change(run, task, shots, NO_PTX, start, seed)
            gain = _change(run, task, shots, PTX, NO_PTX, seed)
            score = _score(run, Cell(start, task, shots))
            if fall is not None and gain is not None and score is not None:
                rows[task, shots] = Recovery(task, shots, score, fall, gain)
    falls = adjust({key: row.fall for key, row in rows.items()})
    gains = adjust({key: row.gain for key, row in rows.items()})
    return [
        Recovery(row.task, row.shots, row.start, falls[key], gains[key])
        for key, row in rows.items()
    ]


def ptx_start(run: RunRecord, config: RunConfig) -> str | None:
    """Return the stage that PPO's fall is measured from, or None where neither was evaluated."""
    section = config.stages.get(PTX)
    wanted = [section.init] if isinstance(section, PpoSection) else []
    scored = {cell.stage for cell in run.scores}
    return next((stage for stage in [*wanted, BASE] if stage in scored), None)


def _tax_cell(run: RunRecord, cell: Cell, seed: int) -> TaxCell:
    figures = run.scores[cell]
    change = None
    if cell.stage != BASE:
        change = _change(run, cell.task, cell.shots, cell.stage, BASE, seed)
    return TaxCell(
        cell,
        figures.get("acc"),
        figures.get("stderr"),
        int(figures.get("n", 0)),
        figures.get("ece"),
        figures.get("brier"),
        change,
    )


def _mean_cell(run: RunRecord, stage: str, shots: int | None, seed: int) -> TaxCell:
    cells = [run.scores.get(cell, {}) for cell in _cells(run, Cell(stage, MEAN, shots))]
    errors = [cell["stderr"] for cell in cells if "stderr" in cell]
    # Answers to one document at several numbers of shots hang together: no plain sum of variances.
    apart = shots is not None and len(errors) == len(cells)
    return TaxCell(
        Cell(stage, MEAN, shots),
        _mean(cells, "acc"),
        math.sqrt(sum(error**2 for error in errors)) / len(errors) if apart else None,
        int(sum(cell.get("n", 0) for cell in cells)),
        _mean(cells, "ece"),
        _mean(cells, "brier"),
        None if stage == BASE else _change(run, MEAN, shots, stage, BASE, seed),
    )


def _cells(run: RunRecord, cell: Cell) -> list[Cell]:
    """Return the single measurements that a mean is over."""
    tasks = run.tasks if cell.task == MEAN else [cell.task]
    shots = run.shots if cell.shots is None else [cell.shots]
    return [Cell(cell.stage, task, count) for task in tasks for count in shots]


def _mean(cells: Sequence[Mapping[str, float]], key: str) -> float | None:
    values = [cell[key] for cell in cells if key in cell]
    return sum(values) / len(values) if values and len(values) == len(cells) else None


def _score(run: RunRecord, cell: Cell) -> float | None:
    return _mean([run.scores.get(each, {}) for each in _cells(run, cell)], "acc")


def _change(
    run: RunRecord, task: str, shots: int | None, later: str, earlier: str, seed: int
) -> Change | None:
    groups = []
    for name in run.tasks if task == MEAN else [task]:
        both = [_documents(run, Cell(stage, name, shots)) for stage in (later, earlier)]
        groups.append(pair(*both))
    return compare(groups, seed)


def _documents(run: RunRecord, cell: Cell) -> Mapping[str, float]:
    """Return each document's outcome, its mean over the shots where they are left open."""
    if cell.shots is not None:
        return run.documents.get(cell, {})
    outcomes = [run.documents.get(each, {}) for each in _cells(run, cell)]
    whole = set.intersection(*(set(each) for each in outcomes)) if outcomes else set()
    return {doc: sum(each[doc] for each in outcomes) / len(outcomes) for doc in whole}


def _adjusted(cells: Mapping[Cell, TaxCell]) -> dict[Cell, TaxCell]:
    changes = adjust({key: row.change for key, row in cells.items() if row.change is not None})
    return {key: replace(row, change=changes.get(key)) for key, row in cells.items()}
