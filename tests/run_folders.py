"""Write runs as the stages leave them, without training anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file
from pipeline.runs import Manifest

STARTED, FINISHED = "2030-01-01T10:00:00+00:00", "2030-01-01T10:05:00+00:00"


def write_stage(
    run_dir: Path,
    name: str,
    parents: Sequence[str] = (),
    *,
    model: Path | None = None,
    log: Sequence[Mapping[str, Any]] = (),
    **manifest: Any,
) -> Path:
    """Write a stage's folder and return it.

    Args:
        run_dir: the run.
        name: stage or variant.
        parents: stages in the same run, as they are now.
        model: a folder that becomes its ``model/``.
        log: lines of its ``metrics.jsonl``.
        manifest: further fields of the manifest; a complete stage by default.
    """
    folder = run_dir / name
    folder.mkdir(parents=True)
    if model is not None:
        shutil.copytree(model, folder / "model")
        manifest.setdefault("model_hash", "5" * 64)
    hashes = {parent: hash_file(run_dir / parent / "manifest.json") for parent in parents}
    fields = {"status": "complete", "seed": 0, "config_hash": "", "started": STARTED}
    if manifest.get("status", "complete") == "complete":
        fields |= {"finished": FINISHED, "seconds": 300.0}
    Manifest(stage=name, parents=hashes, **{**fields, **manifest}).write(folder)
    if log:
        add_lines(folder, log)
    return folder


def add_lines(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log further steps of a stage."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
