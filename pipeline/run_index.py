"""List the runs beside one another: their stages, their models, their curves.

Everything is read from the disk as it is now, also while a stage trains, and without torch. Runs,
stages and models are found by listing folders: a name that somebody gives is looked up among those
and never made part of a path.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import hash_file
from pipeline.config.run import SECTIONS, stage_of
from pipeline.errors import DataError, RunError, nearest
from pipeline.model_places import ModelPlace, find_models
from pipeline.runs import Manifest, is_at_work, list_checkpoints

Status = Literal["complete", "running", "cut", "failed", "damaged"]
PART = 1 << 20
"""Bytes of a log that are read at once."""


@dataclass(frozen=True)
class StageState:
    """Say how far a stage is and what it was made from.

    Attributes:
        name: stage or variant.
        status: of its manifest; ``cut`` where it says ``running`` and nobody is at work, and
            ``damaged`` where it cannot be read.
        started: when; ISO, empty where unknown.
        finished: when; empty where it is not.
        seconds: at work.
        metrics: its final figures, numbers alone.
        parents: each stage it was made from, and whether that is still there as it was then.
        sources: each source of data to its hash.
        model_hash: names its model; empty where it has none.
        checkpoints: steps of the checkpoints that it holds.
        has_log: whether it has logged figures of its steps.
        error: why it failed, in one line.
    """

    name: str
    status: Status
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    parents: Mapping[str, bool] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    model_hash: str = ""
    checkpoints: tuple[int, ...] = ()
    has_log: bool = False
    error: str = ""


@dataclass(frozen=True)
class LogPart:
    """Hold a part of a stage's log.

    Attributes:
        rows: the numbers of each line, ``step`` among them.
        cursor: where the next part begins.
        fresh: the part begins at the log's start: what was read before no longer counts.
        more: there are further lines already.
        skipped: lines that are not JSON objects with a ``step``.
    """

    rows: tuple[Mapping[str, float], ...] = ()
    cursor: str = ""
    fresh: bool = True
    more: bool = False
    skipped: int = 0


class RunIndex:
    """Look at all runs of a folder.

    Args:
        run_dir: one of the runs; the others lie beside it.
    """

    def __init__(self, run_dir: Path) -> None:
        self.own = run_dir.resolve()

    def runs(self) -> list[str]:
        """Return the names of the runs, by name; a run is a folder with a stage's manifest."""
        return sorted(self._folders())

    def folder(self, run: str) -> Path:
        """Return a run's folder.

        Raises:
            RunError: if there is no such run.
        """
        folders = self._folders()
        if run not in folders:
            raise RunError(f"There is no run '{run}' here.{nearest(run, folders)}")
        return folders[run]

    def stages(self, run: str) -> list[StageState]:
        """Return a run's stages in the order of the line, variants after their stage.

        Raises:
            RunError: if there is no such run.
        """
        folder = self.folder(run)
        order = list(SECTIONS)
        names = [path.parent.name for path in folder.glob("*/manifest.json")]
        known = [name for name in names if stage_of(name) in SECTIONS]
        known.sort(key=lambda name: (order.index(stage_of(name)), name))
        found = (_read_stage(folder, name) for name in known)
        return [stage for stage in found if stage is not None]

    def models(self) -> list[ModelPlace]:
        """Return every model of every run that can be loaded."""
        return [
            place for _, folder in sorted(self._folders().items()) for place in find_models(folder)
        ]

    def model(self, id_: str) -> ModelPlace:
        """Return a model by its id.

        Raises:
            RunError: if there is no such model, or no longer.
        """
        models = {place.id: place for place in self.models()}
        if id_ not in models:
            raise RunError(f"There is no model '{id_}' here.{nearest(id_, models)}")
        return models[id_]

    def read_metrics(self, run: str, stage: str, cursor: str = "") -> LogPart:
        """Return what a stage has logged since a part before; all of it for an empty cursor.

        Raises:
            RunError: if there is no such run.
            DataError: if a line has no end.
        """
        found = self.folder(run).glob("*/metrics.jsonl")
        path = next((path for path in found if path.parent.name == stage), None)
        return LogPart() if path is None else read_part(path, cursor)

    def _folders(self) -> dict[str, Path]:
        try:
            beside = [path for path in self.own.parent.iterdir() if path.is_dir()]
        except OSError:
            beside = [self.own]
        return {path.name: path for path in beside if _is_run(path)}


def read_part(path: Path, cursor: str = "") -> LogPart:
    """Return the whole lines of a log after a cursor, a bounded number of bytes at once.

    A log is only ever added to, or replaced by another file when a stage is resumed or run again;
    where it was replaced, it is read from the start.

    Raises:
        DataError: if a line has no end within ``PART`` bytes.
    """
    try:
        file = path.open("rb")
    except OSError:
        return LogPart()
    with file:
        status = os.fstat(file.fileno())
        start = _resume_at(cursor, status)
        file.seek(max(start - 1, 0))
        if start and file.read(1) != b"\n":
            start = 0
            file.seek(0)
        chunk = file.read(PART)
    end = chunk.rfind(b"\n") + 1
    if not end and len(chunk) == PART:
        raise DataError(f"{path} must hold lines below {PART} bytes, got a longer one. Mend it.")
    lines = chunk[:end].splitlines()
    rows = [row for line in lines if (row := _read_row(line)) is not None]
    return LogPart(
        tuple(rows),
        cursor=f"{status.st_ino}:{start + end}",
        fresh=start == 0,
        more=len(chunk) == PART,
        skipped=len(lines) - len(rows),
    )


def _resume_at(cursor: str, status: os.stat_result) -> int:
    """Return the byte to go on from: 0 where the cursor is of another file, or beyond this one."""
    file, _, at = cursor.partition(":")
    same = file == str(status.st_ino) and at.isdecimal() and len(at) < 20
    return int(at) if same and int(at) <= status.st_size else 0


def _read_row(line: bytes) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return numbers_of(row) if isinstance(row, dict) and _is_number(row.get("step")) else None


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a finite number in a row."""
    return {key: value for key, value in row.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_run(folder: Path) -> bool:
    return any(stage_of(path.parent.name) in SECTIONS for path in folder.glob("*/manifest.json"))


def _read_stage(folder: Path, name: str) -> StageState | None:
    """Read how far a stage is; None where it was taken away since it was found."""
    stage = folder / name
    try:
        manifest = Manifest.read(stage)
    except FileNotFoundError:
        return None
    except (RunError, OSError) as error:
        return StageState(name, "damaged", error=str(error))
    if manifest is None:
        return None
    status: Status = manifest.status
    if status == "running" and not is_at_work(stage):
        status = "cut"
    return StageState(
        name,
        status,
        manifest.started,
        manifest.finished,
        manifest.seconds,
        numbers_of(manifest.metrics),
        {parent: _hash(folder, parent) == was for parent, was in manifest.parents.items()},
        dict(manifest.sources),
        manifest.model_hash,
        tuple(list_checkpoints(stage)),
        (stage / "metrics.jsonl").is_file(),
        manifest.error,
    )


def _hash(folder: Path, stage: str) -> str:
    with contextlib.suppress(OSError):
        return hash_file(folder / stage / "manifest.json")
    return ""
