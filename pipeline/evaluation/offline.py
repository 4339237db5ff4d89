"""Read the tasks of the ``offline`` preset from a folder of JSONL files.

    arc_easy, piqa, copa, hellaswag    query, choices, gold
    winogrande                         context_options, continuation, gold
    lambada_openai                     context, continuation
    blimp/PARADIGM                     good, bad, phenomenon

BLiMP (Warstadt et al. 2020) is one task: the sentence that is grammatical must be the likelier one.
It knows no examples. Its paradigms take turns, so that the first n pairs are of all of them; each
phenomenon has an accuracy of its own beside the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.rows import read_text_rows
from pipeline.evaluation.tasks import LocalTask, read_task

FILES = ("arc_easy", "piqa", "copa", "winogrande", "hellaswag", "lambada_openai")
BLIMP = "blimp"
BLIMP_FIELDS = ("good", "bad")


def list_offline(data: Path | None) -> list[Path]:
    """Return the files of the preset, BLiMP's paradigms last.

    Raises:
        ConfigError: if no folder is named, or a file is missing in it.
    """
    if data is None or not data.is_dir():
        got = "nothing" if data is None else f"{data}, which is no folder"
        raise ConfigError(
            "evaluate.data must name the folder that the preset 'offline' reads, got "
            f"{got}. Set it, or name .jsonl files in evaluate.tasks."
        )
    files = [data / f"{name}.jsonl" for name in FILES]
    paradigms = sorted((data / BLIMP).glob("*.jsonl"))
    missing = [file.name for file in files if not file.is_file()]
    missing += [] if paradigms else [f"{BLIMP}/PARADIGM.jsonl"]
    if missing:
        raise ConfigError(
            f"evaluate.data must hold the tasks of the preset 'offline', got {data} without "
            f"{', '.join(missing)}. Add them, or name .jsonl files in evaluate.tasks."
        )
    return [*files, *paradigms]


def read_offline(data: Path | None, examples: int) -> list[LocalTask]:
    """Read the preset's tasks.

    Args:
        data: ``evaluate.data``.
        examples: rows of each file that are kept as examples.

    Raises:
        ConfigError: if no folder is named, or a file is missing in it.
        DataError: if a row is malformed.
    """
    files = list_offline(data)
    tasks = [read_task(path, examples) for path in files[: len(FILES)]]
    return [*tasks, read_pairs(BLIMP, files[len(FILES) :])]


def read_pairs(name: str, paths: Sequence[Path]) -> LocalTask:
    """Read sentences of which the good one must be the likelier, the files taking turns.

    Raises:
        DataError: if a row lacks a sentence, or there is none.
    """
    columns = [
        [_read_pair(path, line, row) for line, row in read_text_rows(path)] for path in paths
    ]
    turns = itertools.zip_longest(*columns)
    docs = [doc for turn in turns for doc in turn if doc is not None]
    if not docs:
        raise DataError(f"{paths[0]} must hold pairs of sentences, got none. Add rows.")
    return LocalTask(name, ("query", "choices", "gold"), docs, (), shots=(0,), groups="group")


def _read_pair(path: Path, line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    for field in BLIMP_FIELDS:
        if not isinstance(row.get(field), str) or not row[field]:
            got = f"{row[field]!r:.60}" if field in row else ", ".join(row) or "nothing"
            raise DataError.at(path, line, f"'{field}' must be a sentence, got {got}. Mend it.")
    return {
        "query": "",
        "choices": [row["good"], row["bad"]],
        "gold": 0,
        "group": str(row.get("phenomenon") or path.stem),
    }
