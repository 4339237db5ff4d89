"""Check lm_eval's task YAMLs of the user's own before lm_eval reads them.

lm_eval leaves out a file that it cannot read, and says what is wrong with another in the middle of
a Python error. Here each file is named with the key that it lacks, or has and should not.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from lm_eval.config.task import TaskConfig
from lm_eval.tasks._yaml_loader import load_yaml

from pipeline.errors import DataError, nearest

NAMED = re.compile(r"!function\s+([\w.]+)\.\w+")
"""A function in a YAML, by its module."""
STRUCTURE = ("class", "group", "tag", "task_list", "include")
KEYS = frozenset({field.name for field in fields(TaskConfig)} | set(STRUCTURE))
ADVICE: Mapping[str, str] = {
    "task": "Add 'task: NAME'.",
    "dataset_path": "Add 'dataset_path: json' for local files, or a data set's name.",
    "test_split": "Add 'test_split:' (or 'validation_split:') with the questions' split.",
    "doc_to_text": "Add 'doc_to_text:' with a column or a template of the question.",
    "doc_to_target": "Add 'doc_to_target:' with a column or a template of the answer.",
    "doc_to_choice": "Add 'doc_to_choice:' with a column or a list of the answers.",
}
INSTEAD: Mapping[str, tuple[str, ...]] = {
    "dataset_path": ("custom_dataset",),
    "test_split": ("validation_split",),
    "doc_to_text": ("use_prompt",),
    "doc_to_target": ("use_prompt",),
    "doc_to_choice": ("use_prompt",),
}


def check_task_files(folder: Path) -> None:
    """Check every ``.yaml`` below a folder that is a task of its own.

    Raises:
        DataError: if one cannot be read, or lacks a key, or has one that no task has.
    """
    paths = sorted(folder.rglob("*.yaml"))
    parts = {included for path in paths for included in _includes(path)}
    for path in paths:
        config = _read(path)
        # What others include need not be whole.
        if "task" not in config and "group" not in config and path.resolve() in parts:
            continue
        check_task(path, config)


def check_task(path: Path, config: Mapping[str, Any] | None = None) -> None:
    """Check one task's YAML, its includes with it.

    Args:
        path: the file.
        config: what it holds; None reads it.

    Raises:
        DataError: if it cannot be read, or lacks a key, or has one that no task has.
    """
    config = _read(path) if config is None else config
    if "group" in config:
        return
    for key in _missing(config):
        raise DataError(
            f"{path} must have the key '{key}', got {', '.join(map(str, config)) or 'no key'}. "
            f"{ADVICE[key]}"
        )
    if "class" in config:
        return
    for key in config:
        if key not in KEYS:
            raise DataError(f"{path}: '{key}' is no key of a task.{nearest(str(key), KEYS)}")
    for entry in config.get("metric_list") or ():
        if not isinstance(entry, Mapping) or "metric" not in entry:
            raise DataError(
                f"{path}: each entry of 'metric_list' must have the key 'metric', got {entry!r:.60}"
                ". Add 'metric: acc'."
            )


def list_task_files(path: Path) -> list[Path]:
    """Return the files of one task: its YAML, what that includes, its scripts, its rows.

    Args:
        path: the YAML; other tasks in its folder are no part of it.

    Raises:
        DataError: if it cannot be read.
    """
    return sorted({*_list_yamls(path), *list_scripts(path), *_local_rows(_read(path))})


def list_scripts(path: Path) -> list[Path]:
    """Return the scripts that a task's functions may stand in, or take something from.

    They are those beside its YAML and what that includes, and beside each function that these name.

    Args:
        path: the YAML.
    """
    folders: set[Path] = set()
    for file in _list_yamls(path):
        modules = NAMED.findall(file.read_text(encoding="utf-8", errors="replace"))
        named = [file.parent / module.replace(".", "/") for module in modules]
        folders |= {file.parent, *(script.parent for script in named)}
    return sorted({script for folder in folders for script in folder.glob("*.py")})


def _list_yamls(path: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found.add(file)
            waiting += _includes(file)
    return found


def _local_rows(config: Mapping[str, Any]) -> Iterator[Path]:
    kwargs = config.get("dataset_kwargs")
    given = kwargs.get("data_files") if isinstance(kwargs, Mapping) else None
    for part in given.values() if isinstance(given, Mapping) else [given]:
        for pattern in part if isinstance(part, list) else [part]:
            # Path.glob takes no absolute pattern.
            files = map(Path, glob.glob(str(pattern or "")))  # noqa: PTH207
            yield from (file.resolve() for file in files if file.is_file())


def _missing(config: Mapping[str, Any]) -> Iterator[str]:
    if "task" not in config:
        yield "task"
    if "class" in config:
        return
    needed = ["dataset_path", "test_split"]
    if config.get("output_type") != "loglikelihood_rolling":
        needed.append("doc_to_text")
    needed.append("doc_to_target")
    if config.get("output_type") == "multiple_choice":
        needed.append("doc_to_choice")
    for key in needed:
        if not any(config.get(name) is not None for name in (key, *INSTEAD.get(key, ()))):
            yield key


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(load_yaml(path, resolve_func=False))
    except (OSError, ValueError, yaml.YAMLError) as error:
        # What yaml prints is several lines, the place last.
        reason = " ".join(str(error).split()).rstrip(".")
        raise DataError(f"{path} cannot be read as a task ({reason}). Mend the file.") from error


def _includes(path: Path) -> Iterator[Path]:
    try:
        included = load_yaml(path, resolve_func=False, recursive=False).get("include") or ()
    except (OSError, ValueError, yaml.YAMLError):
        return  # said when the file itself is checked
    for name in [included] if isinstance(included, str) else included:
        yield (path.parent / name).resolve()
