"""Turn YAML into frozen dataclasses, and say in one line what is wrong with it.

A section is a frozen dataclass; each field is followed by a one-line docstring (unit, effect,
source) from which ``--help`` is made. Values are coerced by the declared type, and an unknown key,
a wrong type or a duplicate key names its dotted path, the value and the nearest valid name.
A section states its own rules in ``problems()``; only the loader knows the path they stand at.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union

import yaml

from pipeline.errors import ConfigError, nearest

SectionT = TypeVar("SectionT")


class Problem(NamedTuple):
    """One broken rule of a section: which field, what it must do, and what to do about it."""

    field: str
    rule: str
    advice: str


class Section:
    """Be the base of every configuration section."""

    def problems(self) -> Iterator[Problem]:
        """Yield the rules that the values break; a section without rules yields none."""
        yield from ()

    def below(self, least: float, *names: str) -> Iterator[Problem]:
        """Yield a problem for each of the fields that is less than ``least``."""
        for name in names:
            if getattr(self, name) < least:
                yield Problem(name, f"be {least} or more", "Raise it.")

    def not_positive(self, *names: str) -> Iterator[Problem]:
        """Yield a problem for each of the fields that is not above 0."""
        for name in names:
            if getattr(self, name) <= 0:
                yield Problem(name, "be positive", "See the default in --help.")

    def outside_unit(self, *names: str) -> Iterator[Problem]:
        """Yield a problem for each of the fields that does not lie between 0 and 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                yield Problem(name, "lie in [0, 1]", "See the default in --help.")


class _Loader(yaml.SafeLoader):
    """Read YAML with duplicate keys refused and ``1e-5`` a number (YAML 1.2's reading)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            place = f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}"
            raise ConfigError(
                f"{place}: key '{key}' must appear once in its mapping, got it twice. "
                "Remove one of them."
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        ConfigError: if there is no such file, it is not YAML, or it holds no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"No configuration {path}. Give the path of a YAML file.")
    loader = _Loader(path.read_text(encoding="utf-8"))
    loader.name = str(path)
    tree = _single_document(loader, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(tree).__name__}.")
    return tree


def parse_scalar(text: str, where: str) -> Any:
    """Read the right-hand side of a ``key=value`` override as YAML."""
    return _single_document(_Loader(text), where)


def _single_document(loader: _Loader, where: str) -> Any:
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML ({what}). Mend the line.") from error
    finally:
        loader.dispose()


@functools.cache
def field_types(section: type) -> dict[str, Any]:
    """Return the resolved type of every field of a section."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


@functools.cache
def field_docs(section: type) -> dict[str, str]:
    """Return the docstring that follows each field in the section's source."""
    docs: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef), f"{owner} has no class source"
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(doc))),
                ):
                    docs[name] = inspect.cleandoc(doc)
    return docs


def describe_type(hint: Any) -> str:
    """Write a type as a user would: ``float``, ``integer or null``, ``one of 'a', 'b'``."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(arm) for arm in typing.get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (list, tuple):
        return f"list of {describe_type(typing.get_args(hint)[0])}"
    if origin is dict or hint is dict:
        return "mapping"
    names = {int: "integer", float: "number", str: "string", bool: "true or false"}
    if hint is types.NoneType:
        return "null"
    if dataclasses.is_dataclass(hint):
        return "mapping"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def build(section: type[SectionT], values: object, path: str) -> SectionT:
    """Build a section from parsed YAML.

    Args:
        section: a frozen dataclass; one with a ``from_scalar`` classmethod also accepts a string.
        values: what YAML gave; ``None`` means all defaults.
        path: the dotted path that an error names.

    Raises:
        ConfigError: for an unknown key, a missing or ill-typed value, or a broken rule.
    """
    from_scalar = getattr(section, "from_scalar", None)
    if isinstance(values, str) and from_scalar is not None:
        values = from_scalar(values)
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} must be a mapping, got {values!r}. Write its keys below it.")
    hints: dict[str, Any] = field_types(section)  # type: ignore[arg-type]
    for key in values:
        if key not in hints:
            raise ConfigError(f"{_join(path, str(key))} is no known key.{nearest(str(key), hints)}")
    fields = {
        name: _coerce(hint, values[name], _join(path, name))
        for name, hint in hints.items()
        if name in values
    }
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and field.name not in fields:
            raise ConfigError(f"{_join(path, field.name)} must be given. Add it to the YAML.")
    made = section(**fields)
    if isinstance(made, Section):
        check(made, path)
    return made


def check(section: Section, path: str) -> None:
    """Raise the section's first broken rule as a ``ConfigError`` at ``path``."""
    for problem in section.problems():
        value = functools.reduce(getattr, problem.field.split("."), section)
        raise ConfigError(
            f"{_join(path, problem.field)} must {problem.rule}, got {value!r}. {problem.advice}"
        )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse(hint: Any, value: object, path: str) -> ConfigError:
    return ConfigError(f"{path} must be {describe_type(hint)}, got {value!r}. Change the value.")


def _coerce(hint: Any, value: object, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _coerce_union(hint, value, path)
    if origin is Literal:
        if value not in typing.get_args(hint) or isinstance(value, bool):
            raise _refuse(hint, value, path)
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise _refuse(hint, value, path)
        element = typing.get_args(hint)[0]
        return tuple(_coerce(element, item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _refuse(hint, value, path)
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    return _coerce_scalar(hint, value, path)


def _coerce_union(hint: Any, value: object, path: str) -> Any:
    arms = [arm for arm in typing.get_args(hint) if arm is not types.NoneType]
    if value is None:
        return None
    if len(arms) == 1:
        return _coerce(arms[0], value, path)
    for arm in arms:
        try:
            return _coerce(arm, value, path)
        except ConfigError:
            continue
    raise _refuse(hint, value, path)


def _coerce_scalar(hint: Any, value: object, path: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(typing.cast(float, value))
    if hint is int and is_number and float(typing.cast(float, value)).is_integer():
        return int(typing.cast(int, value))
    if hint in (bool, str) and type(value) is hint:
        return value
    if hint is Any:
        return value
    raise _refuse(hint, value, path)


def to_plain(value: Any) -> Any:
    """Turn a section back into plain YAML values: mappings, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value
