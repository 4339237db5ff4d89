"""Show how PPO's trainings went: time, held-out prompts, and what the doctor found.

Everything is taken from the stages' logs; only shares, rates and sums are computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.doctor import Course
from pipeline.report.gather import Curve, RunRecord, StageRecord
from pipeline.report.sections import BEST

PHASES = ("rollout", "score", "train", "eval")


@dataclass(frozen=True)
class PhaseTime:
    """Hold one phase of a training: its seconds in all, and its share of all phases' time."""

    seconds: float
    share: float


@dataclass(frozen=True)
class TimeRow:
    """Hold where one training's time went.

    Attributes:
        iterations: how many were logged.
        phases: by name: rollout, score, train and eval; those that were logged.
        seconds: of all phases.
        episodes_per_second: completions, over the time of all phases.
        rollout_tokens_per_second: completion tokens, over the rollouts' time.
        tokens_per_second: completion tokens, over the time of all phases.
    """

    stage: str
    iterations: int
    phases: Mapping[str, PhaseTime]
    seconds: float
    episodes_per_second: float | None
    rollout_tokens_per_second: float | None
    tokens_per_second: float | None


class Answered(NamedTuple):
    """Hold one evaluation's means: score, KL to the reference, win rate against the start."""

    scores: float | None
    kl: float | None
    win_rate: float | None


@dataclass(frozen=True)
class HeldOutRow:
    """Hold one training's evaluations on held-out prompts.

    Attributes:
        evaluations: how many there were.
        prompts: asked in each.
        start: mean score of the policy that training started from.
        best_iteration: after which the mean score was highest.
        best: the evaluation after that iteration.
        last: the last evaluation.
    """

    stage: str
    evaluations: int
    prompts: float | None
    start: float | None
    best_iteration: int
    best: Answered
    last: Answered


@dataclass(frozen=True)
class FindingRow:
    """Hold what the doctor found in one training, and whether it lasted to the end."""

    stage: str
    course: Course
    lasting: bool


def time_table(run: RunRecord) -> list[TimeRow]:
    """Return where the time of each PPO stage went, those that logged it."""
    return [row for stage in run.of_kind("ppo") if (row := _time_row(stage)) is not None]


def _time_row(stage: StageRecord) -> TimeRow | None:
    logged = {
        phase: curve
        for phase in PHASES
        if (curve := stage.curves.get(f"perf/{phase}_seconds")) is not None
    }
    sums = {phase: sum(curve.values) for phase, curve in logged.items()}
    seconds = sum(sums.values())
    if seconds <= 0:
        return None
    episodes = _sizes(stage)
    tokens = _tokens(stage, episodes)
    rollout = sums.get("rollout", 0.0)
    return TimeRow(
        stage=stage.name,
        iterations=max(len(curve.steps) for curve in logged.values()),
        phases={name: PhaseTime(spent, spent / seconds) for name, spent in sums.items()},
        seconds=seconds,
        episodes_per_second=sum(episodes.values()) / seconds if episodes else None,
        rollout_tokens_per_second=tokens / rollout if tokens is not None and rollout else None,
        tokens_per_second=tokens / seconds if tokens is not None else None,
    )


def _sizes(stage: StageRecord) -> dict[int, float]:
    """Return how many completions each iteration had: ``episodes`` counts them since the start."""
    counted = stage.curves.get("episodes", Curve([], []))
    before = [0.0, *counted.values]
    both = zip(counted.steps, counted.values, before, strict=False)
    return {step: count - earlier for step, count, earlier in both}


def _tokens(stage: StageRecord, episodes: dict[int, float]) -> float | None:
    lengths = stage.curves.get("objective/length")
    if lengths is None or not episodes:
        return None
    both = zip(lengths.steps, lengths.values, strict=True)
    return sum(length * episodes.get(step, 0.0) for step, length in both)


def held_out_table(run: RunRecord) -> list[HeldOutRow]:
    """Return how each PPO stage did on held-out prompts, those that were evaluated on any."""
    return [_held_out_row(stage) for stage in run.of_kind("ppo") if BEST in stage.curves]


def _held_out_row(stage: StageRecord) -> HeldOutRow:
    steps, values = stage.curves[BEST]
    best = int(values[-1])
    return HeldOutRow(
        stage=stage.name,
        evaluations=len(steps),
        prompts=_at(stage, "prompts", steps[-1]),
        start=_at(stage, "start_scores", steps[-1]),
        best_iteration=best,
        best=_answered(stage, best),
        last=_answered(stage, steps[-1]),
    )


def _answered(stage: StageRecord, step: int) -> Answered:
    return Answered(*(_at(stage, key, step) for key in Answered._fields))


def _at(stage: StageRecord, key: str, step: int) -> float | None:
    steps, values = stage.curves.get(f"eval/{key}", Curve([], []))
    return values[steps.index(step)] if step in steps else None


def finding_table(run: RunRecord) -> list[FindingRow]:
    """Return what the doctor found, stage by stage, in the order in which it was found."""
    return [
        FindingRow(stage.name, course, course.last >= _last_step(stage))
        for stage in run.of_kind("ppo")
        for course in stage.findings
    ]


def _last_step(stage: StageRecord) -> int:
    return max((curve.steps[-1] for curve in stage.curves.values()), default=0)
