"""Hold every stage's few-shot mean to ``evaluate.max_tax``: a gate for one's own CI.

A stage passes unless its mean over tasks and shots is more than ``max_tax`` below the base's on the
same documents. The estimate decides, not an end of its interval: the same models, data and code
always give the same answer, a fall cannot pass for want of documents, and how much noise there is
in it is said beside it. Set ``max_tax`` wider than half that interval, or ask more documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.run import RunConfig
from pipeline.errors import RegressionError, RunError
from pipeline.report.gather import EVALUATE, Cell, RunRecord, gather
from pipeline.report.statistics import Change
from pipeline.report.tax import MEAN, TaxCell, tax_table
from pipeline.report.words import percent, signed

ROUNDING = 1e-12
"""What a mean of means may be off by: a fall of exactly what is allowed passes."""


@dataclass(frozen=True)
class GateRow:
    """Hold one stage's change of the few-shot mean, and whether it stays within the tax.

    Attributes:
        stage: whose it is.
        max_tax: how far it may fall, as a fraction.
        difference: its mean less the base's.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        passed: it has not fallen further than it may.
    """

    stage: str
    max_tax: float
    difference: float
    low: float
    high: float
    passed: bool


def judge_tax(run: RunRecord, tax: Mapping[Cell, TaxCell], max_tax: float | None) -> list[GateRow]:
    """Return a row a stage that is compared with the base; none where no tax is set."""
    if max_tax is None:
        return []
    means = [(stage, tax.get(Cell(stage, MEAN, None))) for stage in run.evaluated]
    return [_judge(stage, mean.change, max_tax) for stage, mean in means if mean and mean.change]


def _judge(stage: str, change: Change, max_tax: float) -> GateRow:
    passed = change.difference >= -max_tax - ROUNDING
    return GateRow(stage, max_tax, change.difference, change.low, change.high, passed)


def check_tax(config: RunConfig, max_tax: float) -> None:
    """Raise where a stage has fallen further below the base than ``max_tax``.

    Args:
        config: of the run, whose evaluation is on disk.
        max_tax: largest fall of the few-shot mean, as a fraction.

    Raises:
        RegressionError: naming each stage that has, its fall and the interval.
        RunError: if a stage cannot be compared with the base.
    """
    run = gather(config)
    rows = judge_tax(run, tax_table(run, config.seed), max_tax)
    measured = {cell.stage for cell in run.scores} - {run.base, *(row.stage for row in rows)}
    missing = [stage for stage in run.evaluated if stage in measured]
    if missing:
        raise RunError(
            f"evaluate.max_tax must have a few-shot accuracy of {run.base} and of "
            f"{', '.join(missing)} on the same questions to compare, got none in "
            f"{config.run_dir / EVALUATE}. Name tasks that have one."
        )
    failed = [row for row in rows if not row.passed]
    if failed:
        raise RegressionError(_explain(run, failed, max_tax, config.run_dir / EVALUATE))


def _explain(run: RunRecord, failed: Sequence[GateRow], max_tax: float, folder: Path) -> str:
    falls = "; ".join(
        f"{row.stage} changes the few-shot mean by {signed(row.difference, 2)} points "
        f"against {run.base} (95 % interval {signed(row.low, 2)} to {signed(row.high, 2)})"
        for row in failed
    )
    return (
        f"evaluate.max_tax must hold, a fall of {percent(max_tax, 2)} points at most, got more: "
        f"{falls}. The figures are in {folder}; train otherwise, or raise evaluate.max_tax."
    )
