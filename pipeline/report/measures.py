"""Lay out what was measured on few-shot tasks beside accuracy: F1, BLEU, entropies, toxicity.

Which way is better depends on the measure, so a change is only said to be clear or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.report.gather import Cell, RunRecord
from pipeline.report.statistics import Change, adjust, compare, pair

OF_ACCURACY = frozenset(
    {
        *("acc", "stderr", "n", "cut_contexts", "acc_norm", "acc_token", "exact_match", "em"),
        *("ece", "brier", "ece_token", "brier_token", "overconfidence", "ece_chance"),
        *("ece_mended", "temperature"),
    }
)
"""Figures of a task that stand in the tax and calibration tables."""
OF_DOCUMENTS = frozenset({"n", "stderr", "cut_contexts"})
SPREAD = "_stderr"


@dataclass(frozen=True)
class Measure:
    """Hold one measure of a stage on a task, and its change against the base.

    Attributes:
        stage: whose it is.
        task: where it was measured.
        shots: examples before a question.
        measure: its name.
        value: as the evaluation wrote it.
        stderr: its standard error, where that was written.
        n: documents.
        cut: contexts that were too long for the model, and cut on the left.
        change: against the base; None for the base, and where the figure is no mean over documents.
    """

    stage: str
    task: str
    shots: int
    measure: str
    value: float
    stderr: float | None
    n: int
    cut: int
    change: Change | None


def measure_table(run: RunRecord, seed: int) -> list[Measure]:
    """Return a row a measure and stage, by task; Holm's family is the table."""
    rows = [row for cell in run.scores for row in _rows(run, cell, seed)]
    order = {stage: place for place, stage in enumerate(run.evaluated)}
    rows.sort(key=lambda row: (row.task, row.shots, row.measure, order[row.stage]))
    changes = adjust({at: row.change for at, row in enumerate(rows) if row.change is not None})
    return [replace(row, change=changes.get(at)) for at, row in enumerate(rows)]


def _rows(run: RunRecord, cell: Cell, seed: int) -> Iterator[Measure]:
    figures = run.scores[cell]
    known = OF_ACCURACY if "acc" in figures else OF_DOCUMENTS
    assert cell.shots is not None, "only a mean has no shots"
    for name, value in figures.items():
        if name not in known and not name.endswith(SPREAD):
            yield Measure(
                cell.stage,
                cell.task,
                cell.shots,
                name,
                value,
                figures.get(name + SPREAD),
                int(figures.get("n", 0)),
                int(figures.get("cut_contexts", 0)),
                _change(run, cell, name, seed),
            )


def _change(run: RunRecord, cell: Cell, name: str, seed: int) -> Change | None:
    base = cell._replace(stage=run.base)
    if cell == base:
        return None
    ours, theirs = _values(run, cell, name), _values(run, base, name)
    return compare([pair(ours, theirs)], seed) if ours and theirs else None


def _values(run: RunRecord, cell: Cell, name: str) -> Mapping[str, float]:
    """Return a measure by document, nothing where the figure is not the mean of these."""
    figure = run.scores.get(cell, {}).get(name)
    values = run.documents[cell].measures.get(name, {}) if cell in run.documents else {}
    if figure is None or not values:
        return {}
    same = math.isclose(float(np.mean(list(values.values()))), figure, rel_tol=1e-6, abs_tol=1e-9)
    return values if same else {}
