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
import sys
import textwrap
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, Union

import yaml

from pipeline.errors import ConfigError, nearest

SectionT = TypeVar("SectionT")
UNIONS = (Union, types.UnionType)


class Problem(NamedTuple):
    """One broken rule of a section: which field, what it must do, and what to do about it.

    A field of a nested section is written ``model.num_heads``, of a list's ``rewards[0].weight``.
    """

    field: str
    rule: str
    advice: str


class Section:
    """Be the base of every configuration section.

    Attributes:
        ADDITIONS: fields that add a part of their own to what a stage makes and change nothing
            else of it; a finished stage takes them without ``--force``.
        ASIDE: fields that nothing a stage makes depends on.
        LATER: fields that came after stages had been made, each with the value that says what those
            did without it; a stage with that value is the same as one that does not know the field.
    """

    ADDITIONS: ClassVar[tuple[str, ...]] = ()
    ASIDE: ClassVar[tuple[str, ...]] = ()
    LATER: ClassVar[Mapping[str, Any]] = types.MappingProxyType({})

    @classmethod
    def fill(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values that were given, with those that they imply for fields left out."""
        return values

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
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
_MERGE_KEY = "tag:yaml.org,2002:merge"


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE_KEY:
            continue
        key = loader.construct_object(key_node, deep=True)
        place = f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}"
        if not isinstance(key, Hashable):
            raise ConfigError(f"{place}: a key must be a plain name, got {key!r}. Mend the line.")
        if key in seen:
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
    if path.is_dir():
        raise ConfigError(f"{path} must be a YAML file, got a folder. Name the file in it.")
    if not path.is_file():
        raise ConfigError(f"No configuration {path}. Give the path of a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as UTF-8 text ({error}). Mend the file."
        ) from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        got = "nothing" if tree is None else describe_type(type(tree))
        raise ConfigError(
            f"{path} must hold a mapping of sections, got {got}. Write 'run_dir:' and the stages."
        )
    return tree


def parse_yaml(text: str, where: str) -> Any:
    """Read one YAML document; an error names ``where`` and the line.

    Raises:
        ConfigError: if the text is not YAML.
    """
    try:
        loader = _Loader(text)
        loader.name = where
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError is a scalar that only looks like a number or a date, such as 2024-13-01.
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML ({what}). Mend the line.") from error


def parse_override(text: str, hint: Any, where: str) -> Any:
    """Read the right-hand side of a ``key=value`` override by the declared type of its key.

    It is YAML, except that a key which holds a string takes the text as it stands unless that is
    ``null`` or quoted: ``report.title=2024`` needs no quotes within quotes.
    """
    arms = _arms(hint)
    if str in arms and not any(typing.get_origin(arm) is list for arm in arms):
        quoted = text[:1] in ("'", '"') or (text in ("", "null", "~") and types.NoneType in arms)
        return parse_yaml(text, where) if quoted else text
    return parse_yaml(text, where)


def type_at(hint: Any, keys: Sequence[str]) -> Any:
    """Return the declared type at a dotted path below ``hint``, and ``Any`` where none is."""
    for key in keys:
        if typing.get_origin(hint) is list and key.isdigit():
            (hint,) = typing.get_args(hint)
            continue
        sections = [arm for arm in _arms(hint) if dataclasses.is_dataclass(arm)]
        hint = field_types(typing.cast(type, sections[0])).get(key, Any) if sections else Any
    return hint


def _arms(hint: Any) -> tuple[Any, ...]:
    """Return the types that a union joins; one alone of any other type."""
    return typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)


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
    if origin in UNIONS:
        return " or ".join(describe_type(arm) for arm in _arms(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (list, tuple):
        return f"list of {describe_type(typing.get_args(hint)[0])}"
    if hasattr(hint, "from_scalar"):
        return "mapping or string"
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
    if issubclass(section, Section):
        values = section.fill(values)
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
        value = functools.reduce(_look_up, re.findall(r"\w+", problem.field), section)
        raise ConfigError(
            f"{_join(path, problem.field)} must {problem.rule}, got {value!r}. {problem.advice}"
        )


def _look_up(holder: Any, key: str) -> Any:
    return holder[int(key)] if isinstance(holder, list) else getattr(holder, key)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse(hint: Any, value: object, path: str) -> ConfigError:
    advice = " Change the value."
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        close = nearest(value, map(str, typing.get_args(hint)))
        # Without one near by, the names that the rule lists are not said again.
        advice = close if "Did you mean" in close else advice
    return ConfigError(f"{path} must be {describe_type(hint)}, got {value!r}.{advice}")


def _coerce(hint: Any, value: object, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in UNIONS:
        return _coerce_union(hint, value, path)
    if origin is Literal:
        if value not in typing.get_args(hint) or isinstance(value, bool):
            raise _refuse(hint, value, path)
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise _refuse(hint, value, path)
        element = typing.get_args(hint)[0]
        return [_coerce(element, item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _refuse(hint, value, path)
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    return _coerce_scalar(hint, value, path)


def _coerce_union(hint: Any, value: object, path: str) -> Any:
    arms = [arm for arm in _arms(hint) if arm is not types.NoneType]
    if value is None and types.NoneType in _arms(hint):
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
    if hint is float and type(value) in (int, float):
        # Every comparison with nan is False: it would pass all the rules of a section. An infinity
        # passes many, and turns a loss into nan; to switch a limit off there are large numbers.
        number = typing.cast(float, value)
        if abs(number) <= sys.float_info.max:
            return float(number)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in (bool, str, int) and type(value) is hint:
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
