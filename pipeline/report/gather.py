"""Read what the stages left in a run folder, whatever is there so far.

A stage that never ran, a file that no stage wrote yet and a key that is absent are all the same
here: they are not in the record, and the page says "not run". Only a file that is there and cannot
be read is an error. Nothing is computed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.run import RunConfig, stage_of
from pipeline.doctor import Course, trace_findings
from pipeline.errors import DataError
from pipeline.records import read_jsonl, read_log
from pipeline.report.values import number
from pipeline.runs import Manifest

EVALUATE = "evaluate"
BASE = "pretrain"
RIVAL = "sft"
MODELS = "models.json"
"""What an evaluation of models that no stage made writes about them; the first is the base."""
ROW_KEYS = {"stage", "task", "shots", "doc", "correct", "confidence"}
"""Keys of a document's row that are no measure of their own."""
COUNTS = "_counts"
"""What follows a measure's name where a row has its counts instead: BLEU is that of their sums."""


class Cell(NamedTuple):
    """Name one measurement on a few-shot task; no shots are the mean over all numbers of shots."""

    stage: str
    task: str
    shots: int | None


class Curve(NamedTuple):
    """Hold one key of a stage's ``metrics.jsonl``."""

    steps: list[int]
    values: list[float]


class TextLoss(NamedTuple):
    """Hold what one held-out text costs.

    Attributes:
        nll: sum of -log p(token), nats.
        size: bytes.
        tokens: how many were predicted; 0 where that was not written.
        surplus: sum over them of confidence less correctness.
    """

    nll: float
    size: float
    tokens: float = 0.0
    surplus: float = 0.0


class Answer(NamedTuple):
    """Hold how one multiple-choice document was answered.

    Attributes:
        correct: 1 where the likeliest choice is right.
        confidence: its share of the choices' probability.
        logliks: log-likelihood of each choice.
        gold: index of the right choice, None where there is none.
    """

    correct: float
    confidence: float
    logliks: tuple[float, ...]
    gold: int | None


@dataclass(frozen=True)
class Documents:
    """Hold what was measured on one task at one number of shots, by document.

    Attributes:
        correct: 0 or 1, wrong or right, or what share.
        answers: of a multiple-choice task.
        measures: of another task: measure to document to value.
        counts: of a measure that is no mean over documents: measure to document to its counts.
    """

    correct: dict[str, float] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class StageRecord:
    """Hold one stage's manifest and log; the manifest is None where it never ran.

    Attributes:
        findings: what the doctor of PPO found, in the order in which it did.
    """

    name: str
    manifest: Manifest | None
    curves: Mapping[str, Curve]
    findings: Sequence[Course] = ()

    @property
    def kind(self) -> str:
        """Return the stage that this is, or is a variant of."""
        return stage_of(self.name)

    def metric(self, *keys: str) -> float | None:
        """Return the first of the keys that the manifest has a number for."""
        found = self.manifest.metrics if self.manifest else {}
        return next((value for key in keys if (value := number(found.get(key))) is not None), None)


@dataclass(frozen=True)
class RunRecord:
    """Hold everything that the report is made from.

    Rows of a stage whose model is gone may still lie in the folder; what is here is of the stages
    that the summary names.

    Attributes:
        stages: what ran and what is to run, but for the report, in the order of the line.
        scores: few-shot figures a measurement (``acc``, ``stderr``, ``n``, ``ece``, ``brier``).
        summary: figures a stage (``perplexity``, ``instruction_following``, ...).
        documents: what was measured on single documents, by measurement.
        texts: stage to held-out text to its loss.
        completions: stage to prompt id to the row of its completion.
        accuracy: what the reward stage wrote in ``accuracy.json``.
        best_of: what ``evaluate`` wrote in ``best_of.json``, nothing where it was not asked to.
        preferences: what it wrote in ``people.json``: how often labelers preferred which stage.
        wins: what it wrote in ``win_rates.json``, nothing where it was not asked to.
        models: what is known of each model, where models were given and no stage made them.
    """

    run_dir: Path
    stages: tuple[StageRecord, ...]
    scores: Mapping[Cell, Mapping[str, float]]
    summary: Mapping[str, Mapping[str, Any]]
    documents: Mapping[Cell, Documents]
    texts: Mapping[str, Mapping[str, TextLoss]]
    completions: Mapping[str, Mapping[str, Mapping[str, Any]]]
    accuracy: Mapping[str, Any]
    best_of: Mapping[str, Any]
    preferences: Sequence[Mapping[str, Any]]
    wins: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Return what the others are compared with: the base of the line, or the first model."""
        return next(iter(self.models), BASE)

    @property
    def rival(self) -> str:
        """Return whose answers the others' are judged against."""
        return next(iter(self.models), RIVAL)

    def stage(self, name: str) -> StageRecord:
        """Return a stage's record, an empty one where there is no such stage."""
        found = (stage for stage in self.stages if stage.name == name)
        return next(found, StageRecord(name, None, {}))

    def of_kind(self, kind: str) -> list[StageRecord]:
        """Return a stage and its variants, those that ran."""
        return [stage for stage in self.stages if stage.kind == kind and stage.manifest]

    @property
    def evaluated(self) -> list[str]:
        """Return the stages that have any evaluation, in the order of the line."""
        measured = {
            *(cell.stage for cell in self.scores),
            *(stage for stage, figures in self.summary.items() if figures),
            *(stage for stage, rows in self.completions.items() if rows),
        }
        known = [stage.name for stage in self.stages if stage.name in measured]
        return known + sorted(measured - set(known))

    @property
    def plan(self) -> list[tuple[str, int]]:
        """Return each few-shot task and number of shots that an accuracy was measured at."""
        return sorted(
            {
                (cell.task, cell.shots)
                for cell, figures in self.scores.items()
                if "acc" in figures and cell.shots is not None
            }
        )

    @property
    def tasks(self) -> list[str]:
        """Return the few-shot tasks that have an accuracy, by name."""
        return list(dict.fromkeys(task for task, _ in self.plan))

    @property
    def shots(self) -> list[int]:
        """Return the numbers of examples shown, fewest first."""
        return sorted({shots for _, shots in self.plan})

    def figure(self, stage: str, key: str) -> float | None:
        """Return a number of a stage's evaluation summary."""
        return number(self.summary.get(stage, {}).get(key))

    @property
    def simulated(self) -> bool:
        """Tell whether the labels come from simulated labelers."""
        manifest = self.stage("label").manifest
        return bool(manifest and manifest.metrics.get("simulated"))


def gather(config: RunConfig) -> RunRecord:
    """Read a run folder.

    Raises:
        SteerlineError: if a file is there but is not what its name says.
    """
    run_dir = config.run_dir
    folder = run_dir / EVALUATE
    models = _mappings(_json(folder / MODELS))
    if models:
        # What they were made of is not known here; only the evaluation has a manifest.
        given = [StageRecord(name, None, {}) for name in models]
        stages = (*given, _stage(run_dir, EVALUATE))
    else:
        stages = tuple(_stages(config))
    summary = _mappings(_json(folder / "summary.json"))
    return RunRecord(
        run_dir=run_dir,
        stages=stages,
        scores=dict(_scores(_json(folder / "results.json"))),
        summary=summary,
        documents=_documents(folder / "documents.jsonl"),
        texts={stage: dict(_text_losses(folder / "texts" / f"{stage}.jsonl")) for stage in summary},
        completions={
            stage: dict(_completions(folder / "completions" / f"{stage}.jsonl"))
            for stage in summary
        },
        accuracy=_json(run_dir / "reward" / "accuracy.json"),
        best_of=_json(folder / "best_of.json"),
        preferences=_json(folder / "people.json").get("preferences", ()),
        wins=_json(folder / "win_rates.json"),
        models=models,
    )


def _stages(config: RunConfig) -> Iterator[StageRecord]:
    for name in config.stages:
        if stage_of(name) != "report":
            stage = _stage(config.run_dir, name)
            if stage.manifest or name in config.line:
                yield stage


def _completions(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((str(row["prompt_id"]), row) for row in _rows(path) if "prompt_id" in row)


def _documents(path: Path) -> dict[Cell, Documents]:
    found: dict[Cell, Documents] = {}
    for row in _rows(path):
        if {"stage", "task", "shots", "doc"} <= row.keys():
            cell = Cell(str(row["stage"]), str(row["task"]), int(row["shots"]))
            _note_document(found.setdefault(cell, Documents()), row)
    return found


def _note_document(known: Documents, row: Mapping[str, Any]) -> None:
    name, correct = str(row["doc"]), number(row.get("correct"))
    if correct is not None:
        known.correct[name] = correct
    logliks, confidence = row.get("scores", row.get("logliks")), number(row.get("confidence"))
    if logliks is None:
        for key, value in row.items():
            if key.endswith(COUNTS) and isinstance(value, Mapping):
                known.counts.setdefault(key.removesuffix(COUNTS), {})[name] = value
            elif key not in ROW_KEYS and (figure := number(value)) is not None:
                known.measures.setdefault(key, {})[name] = figure
    elif correct is not None and confidence is not None:
        known.answers[name] = Answer(correct, confidence, tuple(logliks), row.get("gold"))


def _text_losses(path: Path) -> Iterator[tuple[str, TextLoss]]:
    for row in _rows(path):
        nll, size = number(row.get("nll")), number(row.get("bytes"))
        if nll is not None and size:
            sure, right = number(row.get("confidence")), number(row.get("correct"))
            known = () if sure is None or right is None else (float(row["tokens"]), sure - right)
            yield str(row.get("text")), TextLoss(nll, size, *known)


def _stage(run_dir: Path, name: str) -> StageRecord:
    curves: dict[str, Curve] = {}
    rows = list(read_log(run_dir / name / "metrics.jsonl"))
    for row in rows:
        step = number(row.get("step"))
        for key, value in row.items():
            if key != "step" and step is not None and (figure := number(value)) is not None:
                curve = curves.setdefault(key, Curve([], []))
                curve.steps.append(int(step))
                curve.values.append(figure)
    return StageRecord(name, Manifest.read(run_dir / name), curves, trace_findings(rows))


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.is_file():
        for _, row in read_jsonl(path):
            yield row


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}). Run its stage again with --force."
        ) from error
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {key: inner for key, inner in value.items() if isinstance(inner, Mapping)}


def _scores(results: Mapping[str, Any]) -> Iterator[tuple[Cell, Mapping[str, float]]]:
    for stage, tasks in _mappings(results).items():
        for task, by_shots in _mappings(tasks).items():
            for shots, figures in _mappings(by_shots).items():
                kept = {key: number(value) for key, value in figures.items()}
                yield (
                    Cell(stage, task, int(shots)),
                    {key: value for key, value in kept.items() if value is not None},
                )
