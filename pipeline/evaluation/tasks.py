"""Write the few-shot tasks that lm_eval runs: the tiny world's, and questions from a JSONL file.

A task is a YAML and two JSONL files (its questions, its examples) in the evaluation's folder, in
lm_eval's own format, so that ``lm_eval --include_path`` runs the same outside of this project. The
prompt has GPT-3's form (Brown et al. 2020): description, examples, question. The first k examples
stand before every question, in one order for all stages, so that stages are compared on equal
prompts.

A JSONL file has one of three forms:

* ``query``, ``choices``, ``gold``: the index of the right choice;
* ``context_options``, ``continuation``, ``gold``: one continuation after several contexts
  (Winogrande);
* ``context``, ``continuation``: the greedy continuation must be the given one (LAMBADA).

Its last rows are the examples and are never asked; the questions are its first ones. A query that
begins with ``Question:`` gets ``Answer:`` on a line of its own before the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts import write_text
from pipeline.errors import DataError
from pipeline.evaluation.rows import read_text_rows
from pipeline.records import write_jsonl
from pipeline.world import FewShotTask

VERSION = 2
"""Raise it when a prompt's text or a figure's meaning changes: what was measured before is
redone."""

MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "metric_list": [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True}
        for metric in ("acc", "acc_norm")
    ],
}
FORMS: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    ("query", "choices", "gold"): {
        **MULTIPLE_CHOICE,
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
    },
    ("context_options", "continuation", "gold"): {
        **MULTIPLE_CHOICE,
        "doc_to_text": "gold",
        "doc_to_choice": "context_options",
        "doc_to_target": "continuation",
    },
    ("context", "continuation"): {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": " {{continuation}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "fewshot_config": {"target_delimiter": ""},
    },
}
"""The fields of a row to how lm_eval reads it."""


@dataclass(frozen=True)
class LocalTask:
    """A task whose questions and examples are at hand.

    Attributes:
        name: its key in the results.
        form: the fields of a row, a key of ``FORMS``.
        docs: the questions.
        examples: the rows shown before a question, in this order; never among the questions.
        description: the line that opens the prompt; empty for none.
        delimiter: what stands between examples.
        shots: numbers of examples in place of those asked for; None takes those.
        groups: the field of a row that names its group; each group has an accuracy of its own.
    """

    name: str
    form: tuple[str, ...]
    docs: Sequence[Mapping[str, Any]]
    examples: Sequence[Mapping[str, Any]]
    description: str = ""
    delimiter: str = "\n\n"
    shots: tuple[int, ...] | None = None
    groups: str = ""

    def lm_eval_config(self, folder: Path) -> dict[str, Any]:
        """Return the task in lm_eval's format, reading the files that ``write`` makes."""
        shared = dict(FORMS[self.form])
        sampler = {"sampler": "first_n", **shared.pop("fewshot_config", {})}
        files = {
            "test": str(folder.resolve() / f"{self.name}.jsonl"),
            "examples": str(folder.resolve() / f"{self.name}.examples.jsonl"),
        }
        if not self.examples:
            del files["examples"]
        return {
            "task": self.name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            **({"fewshot_split": "examples"} if self.examples else {}),
            "fewshot_config": sampler,
            "description": self.description and f"{self.description}\n",
            "fewshot_delimiter": self.delimiter,
            "target_delimiter": " ",
            **shared,
            "metadata": {
                "version": VERSION,
                **({} if self.shots is None else {"shots": list(self.shots)}),
                **({"groups": self.groups} if self.groups else {}),
            },
        }

    def write(self, folder: Path) -> None:
        """Write the task's YAML and its two JSONL files."""
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / f"{self.name}.jsonl", self.docs)
        if self.examples:
            write_jsonl(folder / f"{self.name}.examples.jsonl", self.examples)
        text = yaml.safe_dump(self.lm_eval_config(folder), sort_keys=False, allow_unicode=True)
        write_text(folder / f"{self.name}.yaml", text)


def settings_of(task: Any) -> Mapping[str, Any]:
    """Return what this project reads of a task of lm_eval's, from ``metadata`` in its YAML.

    Keys:
        shots: numbers of examples in place of ``evaluate.shots``.
        headline: the metric that ``acc`` stands for.
        groups: the field of a row that names its group.
        pair: the task is a pair of sentences (``evaluation.bias``), and how it is called when the
            first is the likelier one.
        scripts: hash of the files that its functions stand in; added when it is loaded.
    """
    metadata = getattr(task.config, "metadata", None)
    return metadata if isinstance(metadata, Mapping) else {}


def shots_of(task: Any, asked: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of examples that a task is measured with: its own, or those asked for."""
    return tuple(settings_of(task).get("shots", asked))


def adapt_world_task(task: FewShotTask) -> LocalTask:
    """Turn a task of the tiny world into one of lm_eval's."""

    def rows(docs: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"query": doc.query, "choices": list(doc.choices), "gold": doc.gold} for doc in docs
        ]

    return LocalTask(
        name=f"tiny_{task.name}",
        form=("query", "choices", "gold"),
        docs=rows(task.docs),
        examples=rows(task.examples),
        description=task.description,
        delimiter="\n",
    )


def read_task(path: Path, examples: int) -> LocalTask:
    """Read a task from a JSONL file, its last ``examples`` rows being the ones to show.

    Raises:
        DataError: if a row is of none of the forms or no text, or there are too few rows.
    """
    rows: list[dict[str, Any]] = []
    form: tuple[str, ...] | None = None
    for line, row in read_text_rows(path):
        found = next((fields for fields in FORMS if set(fields) <= row.keys()), None)
        if found is None or found != (form or found):
            wanted = [form] if form else list(FORMS)
            raise DataError.at(
                path,
                line,
                f"must have {' or '.join(', '.join(fields) for fields in wanted)}; "
                f"got {', '.join(row) or 'nothing'}. Mend the line.",
            )
        form = found
        rows.append(_check_row(path, line, row, form))
    if form is None or len(rows) <= examples:
        raise DataError(
            f"{path} must have more than {examples} rows, of which the last {examples} are shown "
            f"as examples, got {len(rows)}. Add rows, or lower evaluate.shots."
        )
    split = len(rows) - examples
    return LocalTask(path.stem, form, rows[:split], rows[split:])


def _check_row(
    path: Path, line: int, row: Mapping[str, Any], form: tuple[str, ...]
) -> dict[str, Any]:
    kept: dict[str, Any] = {field: row[field] for field in form}
    for field, value in kept.items():
        many = field in ("choices", "context_options")
        texts = value if isinstance(value, list) and many else [value]
        if field == "gold":
            continue
        if (many and len(texts) < 2) or not all(isinstance(text, str) and text for text in texts):
            kind = "a list of two or more texts" if many else "a text"
            raise DataError.at(path, line, f"'{field}' must be {kind}, got {value!r:.60}. Mend it.")
    if "gold" in kept:
        options = kept.get("choices") or kept["context_options"]
        gold = kept["gold"]
        if type(gold) is not int or not 0 <= gold < len(options):
            raise DataError.at(
                path,
                line,
                f"'gold' must be an index from 0 to {len(options) - 1}, got {gold!r:.40}. Mend it.",
            )
    if "query" in kept:
        kept["query"] = _ask(kept["query"])
    return kept


def _ask(query: str) -> str:
    """End a query so that a choice can follow after one space."""
    text = query.rstrip()
    return f"{text}\nAnswer:" if text.startswith("Question:") else text
