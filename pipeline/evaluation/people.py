"""Say which stage's answers labelers prefer, from the blind comparisons in the label store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.artifacts import hash_text
from pipeline.labeling_quality import win_rates
from pipeline.store import LabelStore
from pipeline.store.judged import Judged, read_judged
from pipeline.store.schema import TaskRow

PEOPLE = "people.json"
JUDGES = {False: "people", True: "simulated"}
"""Who compared, by whether it was a program."""


def read_comparisons(store: LabelStore) -> list[Judged]:
    """Return the comparisons of stages that count, by what was compared and by whom."""
    with store.reading(still=True) as session:
        found = read_judged(session, TaskRow.kind == "comparison", TaskRow.purpose == "work")
    counting = [item for item in found if not item.excluded]
    return sorted(counting, key=lambda item: (item.prompt.id, item.task, item.labeler))


def hash_comparisons(comparisons: Sequence[Judged]) -> str:
    """Return the SHA-256 of what was said, in the order of ``read_comparisons``."""
    said = [
        (item.task, item.labeler, item.ranks, [output.stages for output in item.outputs])
        for item in comparisons
    ]
    return hash_text(json.dumps(said))


def measure_preferences(comparisons: Sequence[Judged]) -> list[dict[str, Any]]:
    """Estimate how often each stage was preferred, a tie half: a row a pair of stages and judge.

    Returns:
        Rows of ``stage``, ``against``, ``judge`` (``people`` or ``simulated``), ``win_rate`` and
        its 95 % interval ``low`` to ``high`` (bootstrap over prompts), ``prompts``,
        ``comparisons``.
    """
    return [
        {
            "stage": rate.stage,
            "against": rate.against,
            "judge": judge,
            "win_rate": rate.share.value,
            "low": rate.share.low,
            "high": rate.share.high,
            "prompts": rate.share.prompts,
            "comparisons": rate.share.count,
        }
        for simulated, judge in JUDGES.items()
        for rate in win_rates(item for item in comparisons if item.simulated == simulated)
    ]


def figures_against(rows: Sequence[Mapping[str, Any]], rival: str) -> dict[str, dict[str, float]]:
    """Return each stage's win rate against one, by stage and by the metric's name."""
    figures: dict[str, dict[str, float]] = {}
    for row in rows:
        name = f"{row['judge']}_win_rate_vs_{rival}"
        if row["against"] == rival:
            figures.setdefault(row["stage"], {})[name] = row["win_rate"]
        elif row["stage"] == rival:
            figures.setdefault(row["against"], {})[name] = 1.0 - row["win_rate"]
    return figures
