"""Read prompts with completions that nobody has ranked yet, each with where it comes from.

A row is one of ours (``prompt``, ``completions``: texts, or objects with ``text`` and ``model`` or
``sources``), or Self-Instruct's (``instruction``, ``input``, ``completions`` by model). A prompt
without completions is read too: it waits for a demonstration. Equal texts of several models stay
apart here; the label store makes one completion of them that keeps every source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.source import Source
from pipeline.data.fields import check_text, read_instruction, read_prompt
from pipeline.data.layouts import Kind, Layout
from pipeline.data.rows import Row, draw_subset
from pipeline.errors import StoreError
from pipeline.store.rows import read_source
from pipeline.store.values import Answered, Provenance, SampledCompletion


def read_answered(
    sources: Sequence[Source], seed: int, *, dropped: Counter[str] | None = None
) -> list[Answered]:
    """Read prompts with their completions, source after source.

    Args:
        sources: what to read; ``limit`` draws from each.
        seed: the run's seed.
        dropped: filled with how many completions were left out as empty, by source.

    Raises:
        DataError: naming the file and the line.
    """
    found: list[Answered] = []
    for source in sources:
        records = ANSWERED.read(source, drop_empty=False, dropped=dropped)
        found += draw_subset(records, source, seed)
    return found


def _read_list(row: Row) -> list[Answered]:
    values = row.values["completions"]
    if not isinstance(values, list):
        raise row.fault(f"'completions' must be a list, got {values!r:.40}. Mend the line.")
    samples = tuple(
        sample
        for number, value in enumerate(values, start=1)
        for sample in _read_item(row, f"completions[{number}]", value)
    )
    return [Answered(read_prompt(row), samples)]


def _read_item(row: Row, key: str, value: object) -> Iterator[SampledCompletion]:
    fields = {"text": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise row.fault(f"'{key}' must be a string or have a 'text', got {value!r:.40}. Mend it.")
    text = check_text(row, f"{key}.text", fields["text"])
    for provenance in _read_origin(row, key, fields):
        yield SampledCompletion(text, provenance)


def _read_origin(row: Row, key: str, fields: Mapping[str, Any]) -> list[Provenance]:
    sources = fields.get("sources")
    if sources:
        try:
            return [read_source(item) for item in sources]
        except (StoreError, AttributeError) as error:
            raise row.fault(f"'{key}.sources': {error}") from error
    return [_origin(row, fields.get("model"))]


def _read_by_model(row: Row) -> list[Answered]:
    values = row.values["completions"]
    if not isinstance(values, dict):
        raise row.fault(
            f"'completions' must be an object of model and text, got {values!r:.40}. Mend the line."
        )
    samples = tuple(
        SampledCompletion(_text_of(row, model, text), _origin(row, model))
        for model, text in values.items()
    )
    return [Answered(read_instruction(row), samples)]


def _text_of(row: Row, model: str, text: object) -> str:
    if not isinstance(text, str):
        raise row.fault(f"'completions.{model}' must be a string, got {text!r:.40}. Mend the line.")
    return check_text(row, f"completions.{model}", text)


def _origin(row: Row, model: object) -> Provenance:
    """Name the model as the stage too, so that its completions can be compared with a stage's."""
    name = str(model) if model else Path(row.path).stem
    return Provenance(stage=name, model=name)


ANSWERED = Kind(
    "prompts with completions",
    (
        Layout(("instruction", "completions"), _read_by_model),
        Layout(("prompt", "completions"), _read_list),
    ),
)
