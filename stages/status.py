"""Show the state of a run's stages: one table, read from their manifests alone, without torch."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.artifacts import hash_file
from pipeline.config.run import RunConfig, stage_of
from pipeline.doctor import trace_findings
from pipeline.errors import DataError, RunError
from pipeline.records import read_log
from pipeline.runs import Manifest, changes, config_hash, is_at_work, list_checkpoints

METRICS_SHOWN = 3
STYLES = {
    "complete": "green",
    "running": "cyan",
    "cut": "yellow",
    "failed": "red",
    "damaged": "red",
}
# rich would fold the table at 80 columns in a pipe.
WIDTH_IN_A_PIPE = 160


def show(config: RunConfig) -> None:
    """Print the table of a run's stages."""
    width = None if sys.stdout.isatty() else WIDTH_IN_A_PIPE
    Console(width=width, file=sys.stdout).print(tabulate(config))


def tabulate(config: RunConfig) -> Table:
    """Return the table: stage, status, key metrics, age, seconds at work, and what is off."""
    table = Table(title=Text(str(config.run_dir)), title_justify="left")
    for column in ("stage", "status", "metrics", "age", "seconds", "note"):
        table.add_column(column, justify="right" if column in ("age", "seconds") else "left")
    stale: dict[str, list[str]] = {}
    for name in config.stages:
        try:
            manifest = Manifest.read(config.run_dir / name)
        except RunError as error:
            table.add_row(name, Text("damaged", STYLES["damaged"]), "", "", "", Text(str(error)))
            continue
        if manifest is not None:
            stale[name] = find_stale(config, manifest, stale)
            table.add_row(*_row(config, manifest, stale[name]))
        elif name in config.line:
            table.add_row(name, Text("to do", "dim"))
    return table


def find_stale(
    config: RunConfig, manifest: Manifest, parents: Mapping[str, list[str]]
) -> list[str]:
    """Say what a stage was made from that has changed since.

    Data files are not read again: a change of their content shows when the stage is run.

    Args:
        config: the run's configuration as it is now.
        manifest: the stage's manifest.
        parents: what is stale of the stages before it.
    """
    now = dataclasses.replace(
        manifest,
        config_hash=config_hash(config, manifest.stage),
        parents={name: _current_hash(config, name) for name in manifest.parents},
    )
    said = changes(config, manifest, now, grows=False)
    section = config.stages[manifest.stage]
    asked = [name for name in section.ADDITIONS if getattr(section, name) is not None]
    said += [f"{name} is new" for name in asked if name not in manifest.additions]
    return said + [f"stage {name} is stale" for name in manifest.parents if parents.get(name)]


def _current_hash(config: RunConfig, name: str) -> str:
    path = config.run_dir / name / "manifest.json"
    return hash_file(path) if path.is_file() else ""


def _row(config: RunConfig, manifest: Manifest, stale: list[str]) -> list[str | Text]:
    folder = config.run_dir / manifest.stage
    status: str = manifest.status
    if status == "running" and not is_at_work(folder):
        status = "cut"
    notes = [manifest.error] if status == "failed" else []
    if status in ("cut", "failed"):
        steps = list_checkpoints(folder)
        notes.append(f"resumes from step {steps[-1]}" if steps else "starts again")
    notes += _doctors_note(folder) if stage_of(manifest.stage) == "ppo" else []
    notes += [f"stale: {'; '.join(stale)}"] if stale else []
    seconds = f"{manifest.seconds:.1f}" if manifest.seconds else ""
    return [
        manifest.stage,
        Text(status, STYLES[status]),
        Text(_write_metrics(manifest.metrics)),
        _write_age(manifest.finished or manifest.started),
        seconds,
        Text(". ".join(notes)),
    ]


def _doctors_note(folder: Path) -> list[str]:
    """Say in a few words what PPO's doctor found last, and whether more is wrong."""
    try:
        courses = trace_findings(read_log(folder / "metrics.jsonl"))
    except DataError as error:
        return [str(error)]
    if not courses:
        return []
    newest = max(courses, key=lambda course: course.first)
    name = "".join(filter(str.isprintable, newest.name)).replace("_", " ")
    more = f" and {len(courses) - 1} more" if len(courses) > 1 else ""
    return [f"doctor: {name}, iterations {newest.first} to {newest.last}{more}"]


def _write_metrics(metrics: Mapping[str, Any]) -> str:
    numbers = {key: value for key, value in metrics.items() if type(value) in (int, float)}
    shown = list(numbers.items())[:METRICS_SHOWN]
    return ", ".join(f"{key} {value:.4g}" for key, value in shown)


def _write_age(moment: str) -> str:
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(moment)
    seconds = max(since.total_seconds(), 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
