"""Write a configuration section as help text: each field's dotted name, type, default and meaning.

Everything shown comes from the section itself, its types and the docstrings below its fields, so
that the help cannot fall behind the code. Plain text reads the same in a pager, a pipe and a log.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pipeline.config.run import SECTIONS, TopLevel, stage_of
from pipeline.config.schema import Section, describe_type, field_docs, field_types, to_plain

WIDTH = 100


def wrap(text: str, indent: int) -> str:
    """Fold a text at the help's width, every line indented."""
    margin = " " * indent
    return textwrap.fill(text, WIDTH, initial_indent=margin, subsequent_indent=margin)


def describe_stage(stage: str) -> str:
    """Return the help of a stage's or variant's section, down to nested ones and list elements."""
    section = SECTIONS[stage_of(stage)]
    lines = [
        f"configuration: keys of '{stage}:' in the YAML, or {stage}.KEY=VALUE on the command line",
        wrap(_summary(section), 2),
        "",
        *_describe_fields(section, stage),
    ]
    for element in sorted(_elements(section), key=lambda kind: kind.__name__):
        name = element.__name__.lower()
        lines += ["", f"a {name} in a list", wrap(_summary(element), 2), ""]
        lines += _describe_fields(element, f"<{name}>")
    return "\n".join(lines) + "\n"


def describe_top() -> str:
    """Return the help of the keys that stand outside the sections."""
    heading = "configuration: top-level keys of the YAML, or KEY=VALUE on the command line"
    return "\n".join([heading, "", *_describe_fields(TopLevel, "")]) + "\n"


def _describe_fields(section: type, path: str) -> Iterator[str]:
    docs, hints = field_docs(section), field_types(section)
    # A section's own fields before those that it shares with others.
    own = vars(section).get("__annotations__", {})
    for field in sorted(dataclasses.fields(section), key=lambda field: field.name not in own):
        name = f"{path}.{field.name}" if path else field.name
        nested = _nested(hints[field.name])
        yield f"  {name}  ({describe_type(hints[field.name])}; {_describe_default(field)})"
        yield wrap(docs[field.name].replace("``", "'"), 6)
        if nested is not None:
            yield from _describe_fields(nested, name)


def _describe_default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "default: its own, below"
    return f"default: {_write_value(value)}"


def _write_value(value: object) -> str:
    """Write a default as it would stand in the YAML, on one line."""
    if isinstance(value, float):
        return repr(value).replace("e-0", "e-").removesuffix(".0")
    if isinstance(value, str):
        # Bare, a colon at the end makes a YAML key of it.
        return f'"{value}"' if value.endswith(":") else value
    if isinstance(value, list):
        return f"[{', '.join(_write_value(item) for item in value)}]"
    if dataclasses.is_dataclass(value):
        departures = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
        return (
            f"{{{', '.join(f'{key}: {_write_value(item)}' for key, item in departures.items())}}}"
        )
    return json.dumps(to_plain(value))


def _arms(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _nested(hint: Any) -> type | None:
    """Return the section that a field holds, itself or null, and None where it holds none."""
    if typing.get_origin(hint) in (list, tuple, dict):
        return None
    kinds = [arm for arm in _arms(hint) if isinstance(arm, type) and issubclass(arm, Section)]
    return kinds[0] if kinds else None


def _elements(section: type) -> set[type]:
    """Return the sections that fields of the section, at any depth, hold lists of."""
    found: set[type] = set()
    for hint in field_types(section).values():
        nested = _nested(hint)
        if nested is not None:
            found |= _elements(nested)
        elif typing.get_origin(hint) in (list, tuple):
            found |= {
                arm for arm in _arms(hint) if isinstance(arm, type) and issubclass(arm, Section)
            }
    return found


def _summary(section: type) -> str:
    return inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0].replace("``", "'")
