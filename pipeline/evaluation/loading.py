"""Build lm_eval's tasks: from rows in memory, from YAMLs, from what it ships."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.tasks import LocalTask, settings_of

SHIPPED = Path(lm_eval.tasks.__file__).parent
"""The folder of what lm_eval ships."""
RULES = ("acc", "acc_norm", "acc_token", "acc_mutual_info")
"""What may pick an answer of a multiple-choice task."""
NOT_DONE = {"runs what the model writes": "UNSAFE_CODE", "asks with images or sound": "MULTIMODAL"}
"""What lm_eval refuses without a word to the user, and how it marks a task that needs it."""
FAILURES = (
    *(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ImportError),
    *(DatasetsError, TemplateError),
)
"""What lm_eval and ``datasets`` raise where a task or its data is not as it should be."""


def build_task(task: LocalTask, folder: Path) -> Any:
    """Make lm_eval's task of a local one, its rows given in memory."""
    splits = {"test": task.docs, **({"examples": task.examples} if task.examples else {})}
    config = {**task.lm_eval_config(folder), "custom_dataset": in_memory(splits)}
    return TaskManager(include_defaults=False).load([config])["tasks"][task.name]


def in_memory(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Callable[..., DatasetDict]:
    """Return what a task's ``custom_dataset`` calls for its data."""
    held = DatasetDict(
        {name: Dataset.from_list([dict(row) for row in rows]) for name, rows in splits.items()}
    )

    def load(**_: Any) -> DatasetDict:
        return held

    return load


@functools.cache
def shipped_index(folder: str = "") -> TaskManager:
    """Return the index of a folder of what lm_eval ships, or of all; all takes many seconds."""
    if folder:
        return TaskManager(include_path=[SHIPPED / folder], include_defaults=False)
    return TaskManager()


def index_with(name: str) -> TaskManager:
    """Return an index in which a shipped name stands, if it is one: a small one for a task.

    lm_eval's whole index parses some 14,000 files. To find the one that says ``task: NAME`` takes a
    twentieth of that; groups, tags and unknown names need it all.
    """
    said = re.compile(rf"^task:\s*(['\"]?){re.escape(name)}\1\s*(#.*)?$".encode(), re.MULTILINE)
    # In lm_eval's order: of two tasks with one name, the first is the one.
    for path in sorted(SHIPPED.rglob("*.yaml"), key=Path.as_posix):
        if said.search(path.read_bytes()):
            index = shipped_index(str(path.parent.relative_to(SHIPPED)))
            if name in index.all_subtasks:
                return index
            break
    return shipped_index()


def read_config(index: TaskManager, name: str) -> dict[str, Any]:
    """Return a task's YAML with its includes and functions resolved."""
    return dict(load_yaml(index.task_index[name].yaml_path, resolve_func=True))


def read_task_file(path: Path) -> dict[str, Any]:
    """Return a user's YAML with its includes and functions resolved.

    Raises:
        DataError: if it cannot be read, or a function of its cannot be imported.
    """
    try:
        return dict(load_yaml(path, resolve_func=True))
    except Exception as error:  # of the user's own code, where a function's module has a fault
        raise DataError(
            f"evaluate.tasks: {path} cannot be loaded ({describe(error)}). Mend it."
        ) from error


def build(index: TaskManager, spec: Any, name: str) -> Iterator[Any]:
    """Yield the tasks of a name or a configuration.

    Raises:
        DataError: if the task or its data cannot be loaded.
    """
    try:
        loaded = index.load([spec])["tasks"]
    except FAILURES as error:
        raise DataError(
            f"evaluate.tasks: the task {name} cannot be loaded ({describe(error)}). "
            "Check its YAML, or without a network give the path of a .jsonl file instead."
        ) from error
    yield from loaded.values()


def describe(error: BaseException) -> str:
    """Return the first line of an error, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def settle(task: Any) -> None:
    """Check what a task's YAML says to this project, and keep it where a run does not change it.

    As in lm_eval, ``num_fewshot: 0`` is not to be overridden: such a task has its examples in its
    prompt, or cannot have any. Whole texts have none before them either.

    Raises:
        ConfigError: if its ``metadata`` names a rule or numbers of examples that cannot be, or it
            needs what is not done here.
    """
    for needed, mark in NOT_DONE.items():
        if getattr(task, mark, False):
            raise ConfigError(
                f"evaluate.tasks must name tasks that are answered and scored as text, got "
                f"{task.task_name}, which {needed}. Remove it."
            )
    settings = dict(settings_of(task))
    whole_texts = task.OUTPUT_TYPE == "loglikelihood_rolling"
    if whole_texts or getattr(task.config, "num_fewshot", None) == 0:
        settings.setdefault("shots", [0])
    headline = settings.get("headline", "acc")
    rules = RULES if "acc_mutual_info" in getattr(task, "_metric_fn_list", {}) else RULES[:-1]
    if task.OUTPUT_TYPE == "multiple_choice" and headline not in rules:
        raise ConfigError(
            f"metadata.headline of the task {task.task_name} must be one of {', '.join(rules)}, "
            f"got {headline!r}. Mend its YAML."
        )
    shots = settings.get("shots", [0])
    counts = shots if isinstance(shots, list) else [None]
    if not counts or not all(type(count) is int and count >= 0 for count in counts):
        raise ConfigError(
            f"metadata.shots of the task {task.task_name} must be a list of numbers from 0, got "
            f"{shots!r:.60}. Mend its YAML."
        )
    task.set_config("metadata", settings)


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
