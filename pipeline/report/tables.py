"""Make the report's tables of the run's record: the tax, what ptx recovers, instruction following.

Scores and standard errors are taken as the evaluation wrote them; differences are computed from
the single documents and prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bootstrap import Interval, bootstrap_mean
from pipeline.config.ppo import PpoSection
from pipeline.config.run import RunConfig
from pipeline.report.gather import BASE, Cell, RunRecord, number
from pipeline.report.statistics import Change, adjust, compare, pair

MEAN = "mean over tasks"
PTX = "ppo"
NO_PTX = "ppo@no_ptx"
SFT = "sft"
JUDGES = {
    "reward_model": "reward model",
    "gold": "gold utility (the ceiling)",
    "bag_of_words": "bag of words (floor)",
    "length": "length alone (floor)",
}


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
    shots: int
    start: float
    fall: Change
    gain: Change

    @property
    def share(self) -> float | None:
        """Return the share of the fall that is recovered; None where there was no clear fall."""
        fell = self.fall.significant and self.fall.difference < 0
        return self.gain.difference / -self.fall.difference if fell else None


@dataclass(frozen=True)
class Following:
    """Hold one stage's answers to the held-out prompts.

    Attributes:
        rate: share of prompts whose instruction was followed, with its 95 % interval.
        against_base: change of that rate against the base.
        against_sft: change of that rate against SFT.
        score: mean score from the reward model, where that is the judge.
        wins: share of prompts on which the judge prefers this stage to SFT, ties half, with its
            interval and n; the change is against 1/2.
    """

    stage: str
    rate: float | None
    stderr: float | None
    spread: Interval | None
    utility: float | None
    n: int
    against_base: Change | None
    against_sft: Change | None
    score: float | None
    score_against_sft: Change | None
    win_rate: float | None
    wins: Change | None


def tax_table(run: RunRecord, seed: int) -> dict[Cell, TaxCell]:
    """Return every score and its change against the base, tasks and their means.

    Holm's families are the task comparisons together, and the means together.
    """
    stages = [stage for stage in run.evaluated if any(cell.stage == stage for cell in run.scores)]
    tasks: dict[Cell, TaxCell] = {}
    means: dict[Cell, TaxCell] = {}
    for shots in run.shots:
        for stage in stages:
            own = [Cell(stage, task, shots) for task in run.tasks]
            tasks |= {cell: _tax_cell(run, cell, seed) for cell in own if cell in run.scores}
            if all(cell in run.scores for cell in own):
                means[Cell(stage, MEAN, shots)] = _mean_cell(run, stage, shots, seed)
    return {**_adjusted(tasks), **_adjusted(means)}


def recoveries(run: RunRecord, config: RunConfig, seed: int) -> list[Recovery]:
    """Return what ptx recovers, a row a task and one for the mean, for each number of shots.

    The fall is measured from PPO's start where that stage was evaluated, else from the base.
    """
    start = ptx_start(run, config)
    if start is None or not {PTX, NO_PTX} <= set(run.evaluated):
        return []
    rows: dict[tuple[str, int], Recovery] = {}
    for shots in run.shots:
        for task in [*run.tasks, MEAN]:
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


def following_table(run: RunRecord, seed: int) -> list[Following]:
    """Return how each stage follows the instructions of the held-out prompts."""
    rows = []
    followed = {stage: judged(run, stage, "followed") for stage in run.evaluated}
    for stage in run.evaluated:
        own = followed[stage]
        rate = run.figure(stage, "instruction_following")
        scores, score = judged(run, stage, "score"), run.figure(stage, "reward_score")
        if rate is None and score is None and not own and not scores:
            continue
        rows.append(
            Following(
                stage=stage,
                rate=rate if rate is not None or not own else float(np.mean(list(own.values()))),
                stderr=run.figure(stage, "instruction_following_stderr"),
                spread=bootstrap_mean(list(own.values()), seed=seed) if own else None,
                utility=run.figure(stage, "utility"),
                n=len(run.completions.get(stage, {})),
                against_base=_against(own, followed.get(BASE, {}), seed, stage != BASE),
                against_sft=_against(own, followed.get(SFT, {}), seed, stage not in (BASE, SFT)),
                score=score,
                score_against_sft=_against(
                    scores, judged(run, SFT, "score"), seed, stage not in (BASE, SFT)
                ),
                win_rate=run.figure(stage, "win_rate_vs_sft"),
                wins=_wins(run, stage, seed),
            )
        )
    return rows


def judged(run: RunRecord, stage: str, key: str) -> dict[str, float]:
    """Return one judgment of a stage's completions, by prompt."""
    rows = run.completions.get(stage, {})
    return {name: value for name, row in rows.items() if (value := number(row.get(key))) is not None}


def _against(
    later: Mapping[str, float], earlier: Mapping[str, float], seed: int, wanted: bool
) -> Change | None:
    return compare([pair(later, earlier)], seed) if wanted and earlier else None


def _wins(run: RunRecord, stage: str, seed: int) -> Change | None:
    """Compare a stage's utility with SFT's, prompt by prompt: +1/2 a win, 0 a tie, -1/2 a loss."""
    if stage == SFT:
        return None
    for key in ("utility", "score"):
        own, sft = judged(run, stage, key), judged(run, SFT, key)
        if own and sft:
            return compare([np.sign(pair(own, sft)) / 2], seed)
    return None


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


def _mean_cell(run: RunRecord, stage: str, shots: int, seed: int) -> TaxCell:
    cells = [run.scores[Cell(stage, task, shots)] for task in run.tasks]
    errors = [cell["stderr"] for cell in cells if "stderr" in cell]
    whole = len(errors) == len(cells)
    return TaxCell(
        Cell(stage, MEAN, shots),
        _mean(cells, "acc"),
        math.sqrt(sum(error**2 for error in errors)) / len(errors) if whole else None,
        int(sum(cell.get("n", 0) for cell in cells)),
        _mean(cells, "ece"),
        _mean(cells, "brier"),
        None if stage == BASE else _change(run, MEAN, shots, stage, BASE, seed),
    )


def _mean(cells: list[Mapping[str, float]], key: str) -> float | None:
    values = [cell[key] for cell in cells if key in cell]
    return sum(values) / len(values) if len(values) == len(cells) else None


def _score(run: RunRecord, cell: Cell) -> float | None:
    tasks = run.tasks if cell.task == MEAN else [cell.task]
    return _mean([run.scores.get(cell._replace(task=task), {}) for task in tasks], "acc")


def _change(
    run: RunRecord, task: str, shots: int, later: str, earlier: str, seed: int
) -> Change | None:
    groups = []
    for name in run.tasks if task == MEAN else [task]:
        both = [run.documents.get(Cell(stage, name, shots), {}) for stage in (later, earlier)]
        groups.append(pair(*both))
    return compare(groups, seed)


def _adjusted(cells: Mapping[Cell, TaxCell]) -> dict[Cell, TaxCell]:
    changes = adjust({key: row.change for key, row in cells.items() if row.change is not None})
    return {
        key: TaxCell(key, row.score, row.stderr, row.n, row.ece, row.brier, changes.get(key))
        for key, row in cells.items()
    }


def glance_table(run: RunRecord) -> list[dict[str, Any]]:
    """Return a row an evaluated stage: what it gained and what it cost, as fractions."""
    return [
        {
            "stage": stage,
            "instruction_following": run.figure(stage, "instruction_following"),
            "win_rate": run.figure(stage, "win_rate_vs_sft"),
            "fewshot": _mean([figures for cell, figures in run.scores.items() if cell.stage == stage], "acc"),
            "perplexity": run.figure(stage, "perplexity"),
        }
        for stage in run.evaluated
    ]


def language_table(run: RunRecord) -> list[dict[str, Any]]:
    """Return perplexity and bits per byte a stage, and perplexity's relative change to the base."""
    before = run.figure(BASE, "perplexity")
    rows = []
    for stage in run.evaluated:
        own = run.figure(stage, "perplexity")
        compared = stage != BASE and own is not None and before
        rows.append(
            {
                "stage": stage,
                "perplexity": own,
                "change": own / before - 1 if compared else None,
                "bits_per_byte": run.figure(stage, "bits_per_byte"),
            }
        )
    return [row for row in rows if row["perplexity"] is not None or row["bits_per_byte"] is not None]


def reward_table(run: RunRecord) -> list[dict[str, Any]]:
    """Return who agrees with the held-out judgments how often, the reward model first.

    Every mapping with an ``accuracy`` in the reward stage's file is a judge on the same pairs.
    """
    label = run.stage("label")
    rows = [
        _judge(JUDGES.get(name, name.replace("_", " ")), figures, run.accuracy)
        for name, figures in {"reward_model": run.accuracy, **run.accuracy}.items()
        if isinstance(figures, Mapping) and number(figures.get("accuracy")) is not None
    ]
    if not rows and (own := run.stage("reward").metric("accuracy")) is not None:
        rows = [_judge(JUDGES["reward_model"], {"accuracy": own}, {})]
    agreement = label.metric("labeler_agreement")
    if agreement is not None and label.manifest:
        ends = label.manifest.metrics.get("labeler_agreement_interval")
        figures = {"accuracy": agreement, "interval": ends}
        figures["n"] = label.metric("labeler_agreement_comparisons")
        name = "simulated labelers among themselves" if run.simulated else "labelers among themselves"
        rows.insert(1, _judge(name, figures, {}))
    return rows


def _judge(name: str, figures: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    ends = figures.get("interval")
    low, high = ends if isinstance(ends, Sequence) and len(ends) == 2 else (None, None)
    return {
        "judge": name,
        "accuracy": number(figures.get("accuracy")),
        "low": number(low),
        "high": number(high),
        "n": number(figures.get("n", shared.get("n"))),
    }
