"""Lay out how well each stage's confidence matches its answers, and what that changed.

Errors and temperatures are taken as the evaluation wrote them; diagrams, and changes against the
base, are computed from the single documents. A change has an interval where it is a mean over
documents: of the Brier score, and of overconfidence (confidence less correctness). The expected
calibration error is no mean, and an interval of its change would be biased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from pipeline.bootstrap import Interval
from pipeline.calibration import count_confidences, reliability
from pipeline.report.gather import Answer, Cell, RunRecord
from pipeline.report.statistics import bootstrap_interval, pair
from pipeline.report.tax import MEAN
from pipeline.tempering import fit_temperature

HISTOGRAM = 10
"""Ranges of the confidence histogram."""
MEANS = ("ece", "ece_chance", "ece_mended", "brier", "overconfidence")
COLUMNS = (
    *("stage", "task", "shots", "n", "ece", "ece_difference", "ece_chance", "ece_mended"),
    *("temperature", "brier", "brier_difference", "brier_low", "brier_high"),
    *("overconfidence", "overconfidence_difference", "overconfidence_low", "overconfidence_high"),
)
"""Columns of ``calibration.csv``."""
Row = dict[str, Any]


def calibration_rows(run: RunRecord, seed: int, bins: int) -> list[Row]:
    """Return a row a stage, multiple-choice task and number of shots, and a row a mean over tasks.

    Args:
        run: what the stages left.
        seed: of the intervals.
        bins: of the reliability diagrams.
    """
    tasks = sorted({(cell.task, cell.shots) for cell in run.scores if _is_choice(run, cell)})
    stages = [stage for stage in run.evaluated if any(cell.stage == stage for cell in run.scores)]
    rows = []
    for shots in sorted({shots for _, shots in tasks if shots is not None}):
        own = [task for task, count in tasks if count == shots]
        for stage in stages:
            cells = [Cell(stage, task, shots) for task in own]
            rows += [_row(run, [cell], cell, seed, bins) for cell in cells if _is_choice(run, cell)]
            if all(_is_choice(run, cell) for cell in cells):
                rows.append(_row(run, cells, Cell(stage, MEAN, shots), seed, bins))
    return rows


def _is_choice(run: RunRecord, cell: Cell) -> bool:
    return "ece" in run.scores.get(cell, {})


def _row(run: RunRecord, cells: Sequence[Cell], name: Cell, seed: int, bins: int) -> Row:
    """Return the figures of one cell, or of the mean over several tasks."""
    base = [cell._replace(stage=run.base) for cell in cells]
    own = {key: _mean(run, cells, key) for key in MEANS}
    before = None if cells == base else _mean(run, base, "ece")
    answers = [answer for cell in cells for answer in _answers(run, cell).values()]
    sure = [answer.confidence for answer in answers]
    right = [answer.correct for answer in answers]
    return {
        **name._asdict(),
        "n": int(sum(run.scores[cell].get("n", 0) for cell in cells)),
        **own,
        "ece_difference": _less(own["ece"], before),
        "temperature": _temperature(run, cells, answers),
        "brier_change": _change(run, cells, base, _brier, seed),
        "overconfidence_change": _change(run, cells, base, _surplus, seed),
        "reliability": [point._asdict() for point in reliability(sure, right, bins)],
        "histogram": count_confidences(sure, HISTOGRAM) if sure else [],
    }


def _mean(run: RunRecord, cells: Sequence[Cell], key: str) -> float | None:
    found = [run.scores[cell][key] for cell in cells if key in run.scores.get(cell, {})]
    return sum(found) / len(found) if found and len(found) == len(cells) else None


def _less(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


def _temperature(run: RunRecord, cells: Sequence[Cell], answers: Sequence[Answer]) -> float | None:
    """Return the temperature as it was written; for several tasks, the one that fits them all."""
    if len(cells) == 1:
        return run.scores[cells[0]].get("temperature")
    judged = [(answer.logliks, answer.gold) for answer in answers if answer.gold is not None]
    return fit_temperature([row for row, _ in judged], [gold for _, gold in judged])


def _answers(run: RunRecord, cell: Cell) -> dict[str, Answer]:
    return run.documents[cell].answers if cell in run.documents else {}


def _change(
    run: RunRecord,
    later: Sequence[Cell],
    earlier: Sequence[Cell],
    value: Callable[[Answer], float | None],
    seed: int,
) -> dict[str, float] | None:
    """Compare the mean of a document's value with the base's, documents paired."""
    if later == earlier:
        return None
    groups = [
        pair(*(dict(_values(_answers(run, cell), value)) for cell in both))
        for both in zip(later, earlier, strict=True)
    ]
    if not groups or not all(len(group) for group in groups):
        return None
    difference = float(np.mean([group.mean() for group in groups]))
    return describe(Interval(difference, *bootstrap_interval(groups, seed)))


def describe(change: Interval) -> dict[str, float]:
    """Return a difference and its interval under the names that the report's rows use."""
    return {"difference": change.estimate, "low": change.low, "high": change.high}


def _values(
    answers: dict[str, Answer], value: Callable[[Answer], float | None]
) -> Iterator[tuple[str, float]]:
    for name, answer in answers.items():
        found = value(answer)
        if found is not None:
            yield name, found


def _surplus(answer: Answer) -> float:
    return answer.confidence - answer.correct


def _brier(answer: Answer) -> float | None:
    if answer.gold is None:
        return None
    error = softmax(answer.logliks)
    error[answer.gold] -= 1
    return float(error @ error)


def flatten(row: Row) -> Row:
    """Return a row's figures for a spreadsheet: plain columns, no diagram."""
    flat = dict(row)
    for key in ("brier", "overconfidence"):
        for part, value in (row[f"{key}_change"] or {}).items():
            flat[f"{key}_{part}"] = value
    return {key: flat.get(key) for key in COLUMNS}
