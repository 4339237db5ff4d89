"""Find the few-shot tasks that a configuration names, and load them with lm_eval.

``tiny`` is the tiny world's tasks; a ``.jsonl`` path is a task of its own; a folder holds lm_eval
YAMLs; anything else is the name of a task, group or tag that lm_eval ships, whose data it
downloads.

Local rows are handed to lm_eval in memory: nothing is written to a cache, and no network is asked.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from lm_eval.tasks import TaskManager

from pipeline.errors import ConfigError, DataError, nearest
from pipeline.evaluation.tasks import LocalTask, adapt_world_task, read_task
from pipeline.world import World

TINY = "tiny"
LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Loaders of ``datasets`` that read files at hand."""


def load_tasks(
    names: Sequence[str], shots: Sequence[int], seed: int, folder: Path, *, write: bool = True
) -> dict[str, Any]:
    """Load the named tasks, ready to be run on any number of models.

    Args:
        names: ``evaluate.tasks``.
        shots: numbers of examples that will be shown.
        seed: the tiny world's.
        folder: where local tasks are written in lm_eval's format, and data caches go.
        write: False leaves the writing to another process.
    Returns:
        Task name to lm_eval's task.

    Raises:
        ConfigError: if there is no such task, two have one name, or one has too few examples.
        DataError: if a task's data cannot be read.
    """
    most = max(shots, default=0)
    tasks: dict[str, Any] = {}
    with quiet():
        for name in names:
            for loaded in _load(name, most, seed, folder, write):
                if loaded.task_name in tasks:
                    raise ConfigError(
                        "evaluate.tasks must have different names, got "
                        f"{loaded.task_name!r} twice. Rename one."
                    )
                tasks[loaded.task_name] = loaded
    return tasks


def _load(name: str, most: int, seed: int, folder: Path, write: bool) -> Iterator[Any]:
    path = Path(name).expanduser()
    if name == TINY:
        local = [adapt_world_task(task) for task in World(seed).tasks()]
    elif path.suffix == ".jsonl":
        local = [read_task(path, most)]
    elif path.is_dir():
        yield from _load_folder(path, folder)
        return
    else:
        yield from _load_shipped(name)
        return
    for task in local:
        if len(task.examples) < most:
            raise ConfigError(
                f"evaluate.shots must be at most {len(task.examples)} for the task {task.name}, "
                f"got {most}. Lower it."
            )
        if write:
            task.write(folder / "tasks")
        yield build_task(task, folder / "tasks")


def build_task(task: LocalTask, folder: Path) -> Any:
    """Make lm_eval's task of a local one, its rows given in memory."""
    splits = {"test": Dataset.from_list([dict(row) for row in task.docs])}
    if task.examples:
        splits["examples"] = Dataset.from_list([dict(row) for row in task.examples])

    def in_memory(**_: Any) -> DatasetDict:
        return DatasetDict(splits)

    config = {**task.lm_eval_config(folder), "custom_dataset": in_memory}
    return TaskManager(include_defaults=False).load([config])["tasks"][task.name]


def _load_folder(path: Path, folder: Path) -> Iterator[Any]:
    index = TaskManager(include_path=[path], include_defaults=False)
    if not index.all_subtasks:
        raise ConfigError(
            f"evaluate.tasks: the folder {path} must hold lm_eval task YAMLs, got none that can be "
            "read. Each needs a 'task:' key."
        )
    for name in index.all_subtasks:
        entry = index.task_index[name].cfg or {}
        spec: Any = name
        if entry.get("dataset_path") in LOCAL_FORMATS:
            cache = {"cache_dir": str(folder / "cache")}
            kwargs = {**(entry.get("dataset_kwargs") or {}), **cache}
            spec = {**_read_config(index, name), "dataset_kwargs": kwargs}
        yield from _build(index, spec, name)


def _read_config(index: Any, name: str) -> dict[str, Any]:
    """Return a task's YAML with its includes and functions resolved."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(index.task_index[name].yaml_path, resolve_func=True))


def _load_shipped(name: str) -> Iterator[Any]:
    index = TaskManager()
    if name not in index.task_index:
        close = difflib.get_close_matches(name, index.all_tasks, n=3, cutoff=0.6)
        hint = nearest(name, close) if close else " 'lm_eval ls tasks' lists them."
        raise ConfigError(
            "evaluate.tasks must name 'tiny', a .jsonl file, a folder of YAMLs or a task of "
            f"lm_eval, got {name!r}.{hint}"
        )
    yield from _build(index, name, name)


def _build(index: Any, spec: Any, name: str) -> Iterator[Any]:
    try:
        loaded = index.load([spec])["tasks"]
    except (OSError, ValueError, KeyError, TypeError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"evaluate.tasks: the task {name} cannot be loaded ({reason}). "
            "Check its YAML, or without a network give the path of a .jsonl file instead."
        ) from error
    yield from loaded.values()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm_eval from talking: its warnings are about choices made here, its bars about parts."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Its progress bars know no switch but an environment variable read at import.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
