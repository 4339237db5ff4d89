"""Lay out what was measured on few-shot tasks beside accuracy: F1, BLEU, entropies, toxicity.

Which way is better depends on the measure, so a change is only said to be clear or not. A measure
that a task's accuracy stands for (F1 of DROP) is not said twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.report.bleu import Counts, bleu_error, compare_bleu, measure_bleu
from pipeline.report.gather import Cell, RunRecord
from pipeline.report.statistics import Change, adjust, compare, pair

OF_ACCURACY = frozenset(
    {
        *("acc", "stderr", "n", "cut_contexts", "acc_norm", "acc_token"),
        *("ece", "brier", "ece_token", "brier_token", "overconfidence", "ece_chance"),
        *("ece_mended", "temperature"),
    }
)
"""Figures of a task that stand in the tax and calibration tables."""
OF_DOCUMENTS = frozenset({"n", "stderr", "cut_contexts"})
ANOTHER_RULE = "acc_"
"""How the accuracies by other rules begin: equal ones are a chance, and not the same measure."""
SPREAD = "_stderr"
BLEU = "bleu"
COLUMNS = (
    *("stage", "task", "shots", "measure", "value", "stderr", "n", "cut_contexts"),
    *("difference", "low", "high", "p", "p_holm", "documents"),
)
"""Columns of ``measures.csv``."""


@dataclass(frozen=True)
class Measure:
    """Hold one measure of a stage on a task, and its change against the base.

    Attributes:
        stage: whose it is.
        task: where it was measured.
        shots: examples before a question.
        measure: its name.
        value: as the evaluation wrote it.
        stderr: its standard error, as that was written; of BLEU, the bootstrap's.
        n: documents.
        cut: contexts that were too long for the model, and cut on the left.
        change: against the base; None for the base, and where the figure is neither a mean over
            documents nor the BLEU of their counts.
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
    same = _stand_for_accuracy(run)
    rows = [
        row
        for cell in run.scores
        for row in _rows(run, cell, seed)
        if (cell.task, cell.shots, row.measure) not in same
    ]
    order = {stage: place for place, stage in enumerate(run.evaluated)}
    rows.sort(key=lambda row: (row.task, row.shots, row.measure, order[row.stage]))
    changes = adjust({at: row.change for at, row in enumerate(rows) if row.change is not None})
    return [replace(row, change=changes.get(at)) for at, row in enumerate(rows)]


def flatten_measure(row: Measure) -> dict[str, Any]:
    """Return a row's figures for a spreadsheet."""
    change = asdict(row.change) if row.change else {}
    flat = {**asdict(row), **change, "documents": change.get("n")}
    flat |= {"n": row.n, "cut_contexts": row.cut}
    return {key: flat.get(key) for key in COLUMNS}


def _stand_for_accuracy(run: RunRecord) -> set[tuple[str, int | None, str]]:
    """Return the tasks, shots and measures that are the accuracy by another name at every stage."""
    equal: dict[tuple[str, int | None, str], bool] = {}
    for cell, figures in run.scores.items():
        for name, value in figures.items():
            if "acc" in figures and not name.startswith(ANOTHER_RULE):
                key = (cell.task, cell.shots, name)
                alike = math.isclose(value, figures["acc"], rel_tol=1e-9, abs_tol=1e-12)
                equal[key] = equal.get(key, True) and alike
    return {key for key, always in equal.items() if always}


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
                figures.get(name + SPREAD, _error(run, cell, name, seed)),
                int(figures.get("n", 0)),
                int(figures.get("cut_contexts", 0)),
                _change(run, cell, name, seed),
            )


def _change(run: RunRecord, cell: Cell, name: str, seed: int) -> Change | None:
    base = cell._replace(stage=run.base)
    if cell == base:
        return None
    if (counts := _counts(run, cell, name)) and (before := _counts(run, base, name)):
        return compare_bleu(counts, before, seed)
    ours, theirs = _values(run, cell, name), _values(run, base, name)
    return compare([pair(ours, theirs)], seed) if ours and theirs else None


def _error(run: RunRecord, cell: Cell, name: str, seed: int) -> float | None:
    counts = _counts(run, cell, name)
    return bleu_error(counts, seed) if counts else None


def _counts(run: RunRecord, cell: Cell, name: str) -> Mapping[str, Counts]:
    """Return the counts by document behind a BLEU, nothing where they do not give it."""
    figure = run.scores.get(cell, {}).get(name)
    counts = run.documents[cell].counts.get(name, {}) if cell in run.documents else {}
    if figure is None or name != BLEU or not counts:
        return {}
    return counts if _is(measure_bleu(counts), figure) else {}


def _values(run: RunRecord, cell: Cell, name: str) -> Mapping[str, float]:
    """Return a measure by document, nothing where the figure is not the mean of these."""
    figure = run.scores.get(cell, {}).get(name)
    values = run.documents[cell].measures.get(name, {}) if cell in run.documents else {}
    if figure is None or not values:
        return {}
    return values if _is(float(np.mean(list(values.values()))), figure) else {}


def _is(value: float, figure: float) -> bool:
    """Tell whether what the documents give is the figure that was written."""
    return math.isclose(value, figure, rel_tol=1e-6, abs_tol=1e-9)
