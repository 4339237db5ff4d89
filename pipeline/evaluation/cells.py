"""Know what the figures of a task at a number of shots depend on, and take over those that stand.

A cell is one task at one number of shots of one stage. Its key changes with the model's files, the
task's configuration, code, questions and examples, the versions of lm_eval and of the local tasks,
the seed that draws examples, and settings of the section. A cell whose key has not changed is not
measured again, neither when tasks or numbers of shots are added (``--force`` sets the folder aside;
what stands there is taken over), nor after a kill.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.artifacts import hash_text
from pipeline.evaluation.folder import EvaluationFolder, Part
from pipeline.evaluation.tasks import VERSION

Cells = Mapping[str, Mapping[str, str]]
"""Task to number of shots (as text) to the cell's key."""

RUNTIME = ("num_fewshot", "custom_dataset", "dataset_kwargs")
"""Fields of a task's configuration that say where its rows are, not what is asked."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class TaskHash(NamedTuple):
    """Hashes of what a task asks, and of the examples that it may show before that."""

    asked: str
    shown: str

    def at(self, shots: int) -> str:
        """Return what a number of shots depends on: without any, no example counts."""
        return f"{self.asked} {self.shown if shots else ''}"


def task_formats() -> tuple[str, int]:
    """Return the versions of lm_eval and of the local tasks: what a name means, and a figure."""
    return importlib.metadata.version("lm_eval"), VERSION


def hash_task(task: Any, limit: int | None, seed: int) -> TaskHash:
    """Hash a task's configuration and questions, and its examples.

    The configuration has the source of each function that it names; a local task's also the hash
    of the files that these stand in (``tasks.settings_of``), for a function may use others.

    Args:
        task: lm_eval's, loaded.
        limit: documents that are asked, the first ones; None is all.
        seed: draws the examples of tasks that have no order of their own.
    """
    config = {key: value for key, value in task.dump_config().items() if key not in RUNTIME}
    asked = itertools.islice(task.eval_docs, limit)
    shown = getattr(getattr(task, "sampler", None), "df", None) or ()
    return TaskHash(_hash([task_formats(), config, *asked]), _hash([seed, *shown]))


def _hash(parts: Sequence[Any]) -> str:
    return hash_text("\n".join(_write(part) for part in parts))


def _write(part: Any) -> str:
    """Write a part of a task; what JSON has no word for as Python does, addresses left out.

    lm_eval itself writes a function without source, such as a partial one, with its address.
    """
    return ADDRESS.sub("", json.dumps(part, sort_keys=True, default=repr))


def make_cells(
    tasks: Mapping[str, TaskHash],
    shots: Mapping[str, Sequence[int]],
    model_hash: str,
    settings: str,
) -> dict[str, dict[str, str]]:
    """Return the key of every cell.

    Args:
        tasks: name to what ``hash_task`` gives.
        shots: name to numbers of examples before a question.
        model_hash: changes when the model does.
        settings: what else the figures depend on.
    """
    return {
        name: {
            str(count): hash_text(f"{model_hash} {task.at(count)} {count} {settings}")
            for count in shots[name]
        }
        for name, task in tasks.items()
    }


def write_key(cells: Cells) -> str:
    """Write the key of a part that holds these cells."""
    return json.dumps(cells, sort_keys=True)


def _read_key(key: str) -> Cells:
    try:
        found = json.loads(key or "{}")
    except ValueError:  # of an earlier version: one hash for all
        return {}
    return found if isinstance(found, dict) else {}


def recall(folders: Sequence[EvaluationFolder], stage: str, wanted: Cells) -> Part:
    """Return the figures and rows of wanted cells that were measured before, in order.

    Args:
        folders: where to look; the first that has a cell gives it.
        stage: whose.
        wanted: the keys that they must have been measured under.
    """
    known = Part({}, [])
    for folder in folders:
        keys, figures = _read_key(folder.key(stage, "fewshot")), folder.figures(stage, "fewshot")
        kept = {
            name: {
                count: figures[name][count]
                for count, key in cells.items()
                if keys.get(name, {}).get(count) == key and count not in known.figures.get(name, {})
            }
            for name, cells in wanted.items()
        }
        rows = [
            row
            for row in folder.rows(stage, "fewshot")
            if str(row["shots"]) in kept.get(row["task"], {})
        ]
        known = join(wanted, known, Part(kept, rows))
    return known


def join(order: Cells, *parts: Part) -> Part:
    """Put parts with different cells together, tasks and shots in this order."""
    figures = {
        name: {
            count: part.figures[name][count]
            for count in cells
            for part in parts
            if count in part.figures.get(name, {})
        }
        for name, cells in order.items()
    }
    places = {
        cell: place
        for place, cell in enumerate((name, count) for name in order for count in order[name])
    }
    rows = [row for part in parts for row in part.rows]
    rows.sort(key=lambda row: places[row["task"], str(row["shots"])])
    return Part({name: found for name, found in figures.items() if found}, rows)


def lacking(wanted: Cells, known: Part) -> dict[str, list[int]]:
    """Return the tasks of which cells are not known, and which numbers of shots these are."""
    new = {
        name: [int(count) for count in cells if count not in known.figures.get(name, {})]
        for name, cells in wanted.items()
    }
    return {name: shots for name, shots in new.items() if shots}
