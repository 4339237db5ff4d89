"""Find the few-shot tasks that a configuration names, and load them with lm_eval.

``evaluate.tasks`` names presets (``tiny`` is the tiny world's tasks, ``offline`` reads a folder of
data, the others are in ``evaluation.presets``); a ``.jsonl`` path, a task of its own; a ``.yaml``
path or a folder of them, in lm_eval's format; and anything else is the name of a task, group or tag
that lm_eval ships, whose data it downloads.

Local rows are handed to lm_eval in memory: nothing is written to a cache, and no network is asked.
"""

from __future__ import annotations

import copy
import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from pipeline.artifacts import hash_file, hash_text
from pipeline.data.tiny import hash_world
from pipeline.errors import ConfigError, DataError, nearest
from pipeline.evaluation.bias import CROWS, WINOGENDER
from pipeline.evaluation.examples import check_examples
from pipeline.evaluation.loading import (
    build,
    build_task,
    describe,
    in_memory,
    index_with,
    quiet,
    read_config,
    read_task_file,
    settle,
    shipped_index,
)
from pipeline.evaluation.offline import BLIMP_FIELDS, list_offline, read_offline, read_pairs
from pipeline.evaluation.presets import BIAS, NAMES, OFFLINE, PRESETS, TINY, PresetTask
from pipeline.evaluation.questions import check_questions
from pipeline.evaluation.rows import read_table, read_text_rows
from pipeline.evaluation.task_files import (
    check_task,
    check_task_files,
    list_scripts,
    list_task_files,
)
from pipeline.evaluation.tasks import (
    LocalTask,
    adapt_world_task,
    read_task,
    settings_of,
    shots_of,
)
from pipeline.world import World

logger = logging.getLogger(__name__)

LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Loaders of ``datasets`` that read files at hand."""
YAML_SUFFIXES = (".yaml", ".yml")


def load_tasks(
    names: Sequence[str],
    shots: Sequence[int],
    seed: int,
    folder: Path,
    *,
    data: str | None = None,
    limit: int | None = None,
    write: bool = True,
) -> dict[str, Any]:
    """Load the named tasks, ready to be run on any number of models.

    Args:
        names: ``evaluate.tasks``.
        shots: numbers of examples that will be shown, where a task has none of its own.
        seed: the run's: of the tiny world, and of the examples' draw.
        folder: where local tasks are written in lm_eval's format, and data caches go.
        data: ``evaluate.data``, the folder of the preset ``offline`` and of other presets' files.
        limit: documents a task that will be asked.
        write: False leaves the writing, and what is said of tasks left out, to another process.
    Returns:
        Task name to lm_eval's task; ``tasks.shots_of`` gives its numbers of examples.

    Raises:
        ConfigError: if there is no such task, two have one name, or one has too few examples.
        DataError: if a task's file or data cannot be read, a question or an example of it cannot
            be written out, or an example is the question asked.
    """
    loader = _Loader(shots, seed, folder, data_folder(data), write)
    tasks: dict[str, Any] = {}
    said: list[str] = []
    with quiet():
        for name in names:
            for loaded in loader.load(name):
                if loaded.task_name in tasks:
                    raise ConfigError(
                        "evaluate.tasks must have different names, got "
                        f"{loaded.task_name!r} twice. Rename one."
                    )
                settle(loaded)
                lost = check_questions(loaded, limit)
                if lost:
                    said.append(_say_lost(loaded.task_name, lost))
                check_examples(loaded, shots_of(loaded, shots), limit, seed)
                tasks[loaded.task_name] = loaded
    if write:
        for line in (*loader.left_out, *said):
            logger.warning("%s", line)
    return tasks


def _say_lost(name: str, lost: Sequence[int]) -> str:
    return (
        f"evaluate.tasks: {name}: questions whose answer is none of their choices count as wrong: "
        f"{len(lost)}, the first is question {lost[0]}. Mend or remove their rows."
    )


def data_folder(data: str | None) -> Path | None:
    """Return ``evaluate.data`` as a path; ``~`` and environment variables stand for their value."""
    return None if data is None else Path(os.path.expandvars(data)).expanduser()


def hash_tasks(names: Sequence[str], data: str | None, seed: int) -> dict[str, str]:
    """Hash the files that the named tasks are read from; lm_eval has its own (``inputs``).

    Raises:
        ConfigError: if the preset ``offline`` lacks its folder or a file.
        DataError: if a task's YAML cannot be read.
    """
    hashes: dict[str, str] = {}
    folder = data_folder(data)
    for name in names:
        path = Path(name).expanduser()
        if name == TINY:
            hashes["tasks of tiny"] = hash_text(f"{seed}\0{hash_world()}")
        elif name == OFFLINE:
            hashes["tasks of offline"] = _hash_files(list_offline(folder), folder)
        elif name in PRESETS:
            rows = {_file_of(task, folder) for task in PRESETS[name]}
            hashes[f"tasks of {name}"] = _hash_files([file for file in rows if file], folder)
        elif path.is_dir():
            # What Python compiled of a task's functions when it was loaded is no part of it.
            files = [file for file in path.rglob("*") if file.suffix != ".pyc" and file.is_file()]
            hashes[name] = _hash_files(files)
        elif path.suffix in YAML_SUFFIXES and path.is_file():
            hashes[name] = _hash_files(list_task_files(path), path.parent)
        elif path.is_file():
            hashes[name] = hash_file(path)
    return hashes


def _hash_files(files: Sequence[Path], root: Path | None = None) -> str:
    lines = [
        f"{os.path.relpath(file, root) if root else file} {hash_file(file)}\n"
        for file in sorted(files)
    ]
    return hash_text("".join(lines))


def _file_of(task: PresetTask, data: Path | None) -> Path | None:
    """Return the rows of a preset's task in the folder of data, where they are there."""
    path = data / f"{task.file}.jsonl" if data and task.file else None
    return path if path and path.is_file() else None


class _Loader:
    """Load one name of ``evaluate.tasks`` after another.

    Attributes:
        left_out: a line on each task that a preset names and that is not there.
    """

    def __init__(
        self, shots: Sequence[int], seed: int, folder: Path, data: Path | None, write: bool
    ) -> None:
        self.most = max(shots, default=0)
        self.seed, self.folder, self.data, self.write = seed, folder, data, write
        self.left_out: list[str] = []
        self._done: set[str] = set()
        self._missing: set[str] = set()

    def load(self, name: str) -> Iterator[Any]:
        """Yield the tasks of one name."""
        path = Path(name).expanduser()
        if name == TINY:
            yield from self._local([adapt_world_task(task) for task in World(self.seed).tasks()])
        elif name == OFFLINE:
            yield from self._local(read_offline(self.data, self.most))
        elif name in PRESETS:
            yield from self._preset(name)
        elif path.suffix == ".jsonl":
            yield from self._rows(path)
        elif path.suffix in YAML_SUFFIXES and path.is_file():
            check_task(path)
            yield from self._yaml(path)
        elif path.is_dir():
            yield from self._folder(path)
        else:
            yield from _load_shipped(name)

    def _local(self, tasks: Sequence[LocalTask]) -> Iterator[Any]:
        for task in tasks:
            if task.shots is None and len(task.examples) < self.most:
                raise ConfigError(
                    f"evaluate.shots must be at most {len(task.examples)} for the task "
                    f"{task.name}, got {self.most}. Lower it."
                )
            if self.write:
                task.write(self.folder / "tasks")
            yield build_task(task, self.folder / "tasks")

    def _rows(self, path: Path) -> Iterator[Any]:
        """Yield what a JSONL file holds: pairs of sentences by their fields, else questions."""
        _, first = next(read_text_rows(path), (0, {}))
        fields = first.keys()
        if set(BLIMP_FIELDS) <= fields:
            yield from self._local([read_pairs(path.stem, [path])])
        elif set(CROWS) <= fields or set(WINOGENDER) <= fields:
            file = "crows_pairs" if set(CROWS) <= fields else "winogender"
            for task in BIAS:
                if task.file == file:
                    name = f"{path.stem}{task.name.removeprefix(file)}"
                    yield from _build_preset(task, name, path)
        else:
            yield from self._local([read_task(path, self.most)])

    def _preset(self, name: str) -> Iterator[Any]:
        wanted = [task for task in PRESETS[name] if task.name not in self._done]
        for task in wanted:
            yield from self._preset_task(task)
        if wanted and not any(task.name in self._done for task in wanted):
            raise DataError(
                f"evaluate.tasks: the data of the preset {name!r} must be in evaluate.data or in "
                f"reach, got neither ({self.left_out[-1].rpartition(': ')[2]}). Name its folder in "
                "evaluate.data, or leave the preset out."
            )

    def _preset_task(self, task: PresetTask) -> Iterator[Any]:
        """Yield one task of a preset, or note why it is left out."""
        path = _file_of(task, self.data)
        source = task.source.partition("/")[0]
        reason = ""
        if task.variable and task.variable not in os.environ:
            reason = f"{task.variable} is not set"
        elif path is None and task.local:
            reason = f"evaluate.data has no {task.file}.jsonl"
        elif path is None and source in self._missing:
            reason = f"the data of {source} cannot be had either"
        else:
            try:
                yield from _build_preset(task, task.name, path)
            except DataError as error:
                if not task.optional or path is not None:
                    raise
                self._missing.add(source)
                reason = describe(error.__cause__ or error)
        if reason:
            self.left_out.append(f"evaluate.tasks: {task.name} is left out: {reason}")
        else:
            self._done.add(task.name)

    def _folder(self, folder: Path) -> Iterator[Any]:
        """Yield the tasks of a folder's YAMLs."""
        check_task_files(folder)
        index = TaskManager(include_path=[folder], include_defaults=False)
        if not index.all_subtasks:
            raise ConfigError(
                f"evaluate.tasks: the folder {folder} must hold lm_eval task YAMLs, got none that "
                "can be read. Each needs a 'task:' key."
            )
        for name in index.all_subtasks:
            yield from self._yaml(Path(index.task_index[name].yaml_path))

    def _yaml(self, path: Path) -> Iterator[Any]:
        """Yield the task of one YAML; local rows are cached in the evaluation's folder."""
        spec = read_task_file(path)
        if "group" in spec:
            raise ConfigError(
                f"evaluate.tasks: {path} must hold a task, got a group. Name the folder instead."
            )
        if spec.get("dataset_path") in LOCAL_FORMATS:
            cache = {"cache_dir": str(self.folder / "cache")}
            spec["dataset_kwargs"] = {**(spec.get("dataset_kwargs") or {}), **cache}
        scripts = list_scripts(path)
        for task in build(TaskManager(include_defaults=False), spec, spec["task"]):
            if scripts:
                known = {"scripts": _hash_files(scripts, path.parent.resolve())}
                task.set_config("metadata", {**settings_of(task), **known})
            yield task


def _build_preset(task: PresetTask, name: str, path: Path | None) -> Iterator[Any]:
    """Yield a preset's task under a name, its rows from a file where one is given."""
    within, _, source = task.source.partition("/")
    index = shipped_index(within) if within else TaskManager(include_defaults=False)
    spec = read_config(index, source) if source else {}
    # lm_eval writes into what it is given.
    changes = copy.deepcopy(dict(task.changes))
    own = {"shots": list(task.shots), "headline": task.headline}
    metadata = {**_mapping(spec, "metadata"), **_mapping(changes, "metadata"), **own}
    spec = {**spec, **changes, "task": name, "metadata": metadata}
    if path is not None:
        split = spec.get("test_split") or spec["validation_split"]
        rows = read_table(path, task.file)
        spec |= {"custom_dataset": in_memory({split: rows}), "training_split": None}
    yield from build(index, spec, name)


def _load_shipped(name: str) -> Iterator[Any]:
    index = index_with(name)
    if name not in index.task_index:
        close = difflib.get_close_matches(name, [*index.all_tasks, *NAMES], n=3, cutoff=0.6)
        hint = nearest(name, close) if close else " 'lm_eval ls tasks' lists them."
        raise ConfigError(
            f"evaluate.tasks must name a preset ({', '.join(sorted(NAMES))}), a .jsonl file, a "
            f"folder of YAMLs or a task of lm_eval, got {name!r}.{hint}"
        )
    yield from build(index, name, name)


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}
