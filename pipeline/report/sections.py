"""Lay out what the page shows beside its tables of differences: stages, charts, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import hash_file
from pipeline.config.rewards import metric_keys
from pipeline.report.charts import (
    SERIES,
    Chart,
    Estimate,
    Series,
    draw_curves,
    draw_intervals,
)
from pipeline.report.diagrams import draw_reliability
from pipeline.report.gather import EVALUATE, Cell, Curve, RunRecord, StageRecord
from pipeline.report.outcomes import Following
from pipeline.report.tax import MEAN, TaxCell
from pipeline.report.values import number
from pipeline.report.words import count_shots, visible
from pipeline.runs import is_at_work

FIGURES_SHOWN = 4
TRAINED = ("pretrain", "sft", "reward", "ppo")
SCORES, KL_COEF = "objective/scores", "objective/kl_coef"
PPO_CURVES = {
    SCORES: "Score, all rewards together",
    "eval/scores": "Held-out score",
    "eval/win_rate": "Held-out win rate against PPO's start",
    "eval/kl": "Held-out KL to the reference policy, nats",
    "objective/kl": "KL to the reference policy, nats",
    KL_COEF: "KL coefficient β, where it is adaptive",
    "objective/rlhf_reward": "Score minus β · KL",
    "objective/entropy": "Entropy of the rollouts, nats",
    "policy/ratio": "Mean probability ratio",
    "policy/clipfrac": "Share of ratios clipped",
    "policy/approxkl": "Approximate KL of one update",
    "value/explained_variance": "Variance that the value model explains",
    "loss/policy": "Policy loss",
    "loss/value": "Value loss",
    "loss/ptx": "Pretraining loss (ptx)",
    "grad_norm/policy": "Gradient norm, policy",
    "grad_norm/value": "Gradient norm, value model",
    "grad_norm/ptx": "Gradient norm, ptx",
}
BEST = "eval/best_iteration"
LOSSES = {"loss": ("training", 4), "eval_loss": ("held out", 1)}
"""Key of a log to what it is and the colour of its line, the same in every stage."""


@dataclass(frozen=True)
class StageRow:
    """Hold a row of the stage table.

    Attributes:
        status: the manifest's, ``cut`` where no process is at work on a running stage.
        figures: the first of the manifest's metrics that are numbers.
        parents: stage, start of its manifest's hash, and whether that manifest has changed since.
    """

    record: StageRecord
    status: str
    figures: Sequence[str]
    parents: Sequence[tuple[str, str, bool]]


@dataclass(frozen=True)
class Sample:
    """Hold one held-out prompt and every stage's answer to it."""

    prompt_id: str
    prompt: Any
    answers: Sequence[tuple[str, Mapping[str, Any]]]


def colours(run: RunRecord) -> dict[str, int]:
    """Give each stage that trains a model its colour, the same in every chart."""
    names = [stage.name for stage in run.stages if stage.kind in TRAINED]
    names += [name for name in run.evaluated if name not in names]
    return {name: i % SERIES for i, name in enumerate(names)}


def stage_rows(run: RunRecord) -> list[StageRow]:
    """Return the stage table, in the order of the line."""
    return [_stage_row(run, stage) for stage in run.stages if stage.name not in run.models]


def _stage_row(run: RunRecord, stage: StageRecord) -> StageRow:
    manifest = stage.manifest
    if manifest is None:
        return StageRow(stage, "not run", [], [])
    status: str = manifest.status
    if status == "running" and not is_at_work(run.run_dir / stage.name):
        status = "cut"
    figures = [
        key
        for key, value in manifest.metrics.items()
        if not isinstance(value, bool) and number(value) is not None
    ]
    parents = []
    for name, known in manifest.parents.items():
        path = run.run_dir / name / "manifest.json"
        parents.append((name, known[:8], not path.is_file() or hash_file(path) != known))
    return StageRow(stage, status, figures[:FIGURES_SHOWN], parents)


def gain_charts(
    run: RunRecord, tax: Mapping[Cell, TaxCell], following: Sequence[Following]
) -> list[Chart]:
    """Draw what alignment gained and what it cost: one row a stage, 95 % intervals."""
    palette = colours(run)
    charts = []
    rates = [
        Estimate(
            row.stage,
            palette[row.stage],
            row.rate,
            row.spread and row.spread.low,
            row.spread and row.spread.high,
        )
        for row in following
        if row.rate is not None
    ]
    if rates:
        source = f"{EVALUATE}/completions/"
        title = "Held-out instructions followed"
        charts.append(draw_intervals("following", title, rates, source, zero=False))
    rows = [
        Estimate(stage, palette[stage], change.difference, change.low, change.high)
        for stage in run.evaluated
        if (row := tax.get(Cell(stage, MEAN, None))) and (change := row.change)
    ]
    if rows:
        source = f"{EVALUATE}/documents.jsonl"
        title = "Few-shot mean against the base, all shots"
        charts.append(draw_intervals("tax-mean", title, rows, source, zero=True))
    return charts


def tax_charts(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> list[Chart]:
    """Draw the few-shot mean by examples shown, and its change against the base at each number."""
    palette = colours(run)
    stages = [stage for stage in run.evaluated if any(cell.stage == stage for cell in tax)]
    lines, charts = [], []
    for stage in stages:
        scores = {shots: tax[Cell(stage, MEAN, shots)].score for shots in run.shots}
        known = {shots: 100 * score for shots, score in scores.items() if score is not None}
        if known:
            lines.append(Series(stage, palette[stage], Curve([*known], [*known.values()])))
    if lines and len(run.shots) > 1:
        source, title = f"{EVALUATE}/results.json", "Few-shot mean by examples shown, percent"
        charts.append(draw_curves("tax-shots", title, lines, source, along="shots"))
    for shots in run.shots:
        rows = [
            Estimate(stage, palette[stage], change.difference, change.low, change.high)
            for stage in stages
            if (change := tax[Cell(stage, MEAN, shots)].change)
        ]
        if rows:
            title = f"Few-shot mean against the base, {count_shots(shots)}"
            source = f"{EVALUATE}/documents.jsonl"
            charts.append(draw_intervals(f"tax-{shots}", title, rows, source, zero=True))
    return charts


def calibration_charts(
    run: RunRecord, rows: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[list[Chart], list[Chart]]]:
    """Draw reliability diagrams: for each number of shots, of all tasks together, and of each."""
    palette = colours(run)
    lines: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        if row["reliability"]:
            by_stage = lines.setdefault((row["shots"], row["task"]), {})
            by_stage[row["stage"]] = (row["reliability"], row["histogram"])
    charts: dict[int, tuple[list[Chart], list[Chart]]] = {}
    for place, ((shots, task), by_stage) in enumerate(sorted(lines.items())):
        what = "All tasks" if task == MEAN else visible(task)
        chart = draw_reliability(
            f"reliability-{place}",
            f"{what}, {count_shots(shots)}",
            by_stage,
            palette,
            f"{EVALUATE}/documents.jsonl",
        )
        charts.setdefault(shots, ([], []))[task != MEAN].append(chart)
    return charts


def token_charts(run: RunRecord, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Draw the next token's reliability diagram, where it was measured."""
    lines = {
        row["stage"]: (row["token_reliability"], ()) for row in rows if row["token_reliability"]
    }
    if not lines:
        return []
    title, source = "The next token of held-out text", f"{EVALUATE}/summary.json"
    return [draw_reliability("reliability-token", title, lines, colours(run), source)]


def ppo_charts(run: RunRecord) -> list[Chart]:
    """Draw PPO's curves, one chart a metric with a line for each ``ppo`` stage."""
    palette, stages = colours(run), run.of_kind("ppo")
    components = reward_names(stages)
    charts: list[Chart] = []
    for key, title in PPO_CURVES.items():
        name = "ppo-" + key.replace("/", "-").replace("_", "-")
        charts += _ppo_chart(stages, palette, key, name, title)
        # A reward that stands alone is the score, but for the missing-end penalty.
        if key == SCORES and len(components) > 1:
            for i, reward in enumerate(components):
                own, title = metric_keys(reward)[0], f"Reward {visible(reward)}, before its weight"
                charts += _ppo_chart(stages, palette, own, f"ppo-reward-{i}", title)
    return charts


def reward_names(stages: Sequence[StageRecord]) -> list[str]:
    """Return the rewards that any of the stages logged, in the order of their logs."""
    found = {
        key.removeprefix("reward/"): None
        for stage in stages
        for key in stage.curves
        if key.startswith("reward/") and metric_keys(key.removeprefix("reward/"))[1] in stage.curves
    }
    return list(found)


def _ppo_chart(
    stages: Sequence[StageRecord], palette: Mapping[str, int], key: str, name: str, title: str
) -> Iterator[Chart]:
    series = [
        Series(stage.name, palette[stage.name], stage.curves[key], _best_step(stage, key))
        for stage in stages
        if key in stage.curves and (key != KL_COEF or len(set(stage.curves[key].values)) > 1)
    ]
    if series:
        yield draw_curves(name, title, series, key)


def _best_step(stage: StageRecord, key: str) -> int | None:
    """Return the iteration of the best held-out score, for the curves of the same evaluations."""
    known = stage.curves.get(BEST)
    return int(known.values[-1]) if known and key.startswith("eval/") else None


def loss_charts(run: RunRecord) -> list[Chart]:
    """Draw the losses of pretraining, SFT and the reward model, a chart a stage."""
    return [chart for kind in TRAINED[:3] for stage in run.of_kind(kind) for chart in _loss(stage)]


def _loss(stage: StageRecord) -> Iterator[Chart]:
    series = [
        Series(label, colour, stage.curves[key])
        for key, (label, colour) in LOSSES.items()
        if key in stage.curves
    ]
    if series:
        name = "loss-" + stage.name.replace("@", "-")
        yield draw_curves(name, f"{stage.name}: loss", series, f"{stage.name}/metrics.jsonl")


def pick_samples(run: RunRecord, count: int) -> list[Sample]:
    """Return prompts evenly spaced through the held-out list, with the stages' answers.

    Their places alone decide, so that nobody's choice, and no stage's success, is in the sample.
    """
    stages = [stage for stage in run.evaluated if run.completions.get(stage)]
    prompts = list(dict.fromkeys(name for stage in stages for name in run.completions[stage]))
    count = min(count, len(prompts))
    picked = [prompts[i * len(prompts) // count] for i in range(count)]
    samples = []
    for name in picked:
        answers = [
            (stage, run.completions[stage][name])
            for stage in stages
            if name in run.completions[stage]
        ]
        prompt = next((row["prompt"] for _, row in answers if "prompt" in row), "")
        samples.append(Sample(name, prompt, answers))
    return samples
