from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pipeline.config.schema import (
    Problem,
    Section,
    build,
    describe_type,
    field_docs,
    parse_override,
    parse_yaml,
    read_yaml,
    to_plain,
    type_at,
)
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Leaf(Section):
    path: str
    """Where."""
    share: float = 1.0
    """How much."""

    @classmethod
    def from_scalar(cls, path: str) -> dict[str, str]:
        return {"path": path}

    def problems(self) -> Iterator[Problem]:
        yield from self.below(0, "share")


@dataclass(frozen=True)
class Tree(Section):
    count: int = 3
    """How many."""
    rate: float = 0.5
    """How fast."""
    name: str = "oak"
    """What it is called."""
    evergreen: bool = False
    """Whether it keeps its leaves."""
    kind: Literal["broad", "needle"] = "broad"
    """Which kind."""
    limit: int | None = None
    """At most."""
    targets: str | list[str] = "all"
    """Which ones."""
    shots: list[int] = field(default_factory=list)
    """How often."""
    leaves: list[Leaf] = field(default_factory=list)
    """The leaves."""
    nested: Leaf | None = None
    """One leaf, or none."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Anything."""


def message_of(values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        build(Tree, values, "tree")
    return str(caught.value)


def test_a_section_survives_the_way_to_plain_values_and_back():
    tree = build(
        Tree,
        {"shots": [0, 1], "leaves": ["a", {"path": "b", "share": 2}], "nested": {"path": "c"}},
        "tree",
    )
    assert build(Tree, to_plain(tree), "tree") == tree
    assert tree.leaves == [Leaf("a"), Leaf("b", 2.0)]


def test_no_values_are_all_defaults():
    assert build(Tree, None, "tree") == Tree() == build(Tree, {}, "tree")


def test_sections_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build(Tree, {}, "tree").count = 4  # type: ignore[misc]


@pytest.mark.parametrize("value", ["1e-5", "1E-5", "+1e-5", "1.0e-5", ".1e-4", "0.1e-4", "10e-6"])
def test_an_exponent_makes_a_number(value: str):
    assert build(Tree, parse_yaml(f"rate: {value}", "x"), "tree").rate == pytest.approx(1e-5)


def test_a_whole_float_is_an_integer_and_an_integer_a_number():
    tree = build(Tree, {"count": 1e3, "rate": 2}, "tree")
    assert (tree.count, type(tree.count)) == (1000, int)
    assert (tree.rate, type(tree.rate)) == (2.0, float)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", "3"),
        ("count", 1.5),
        ("count", True),
        ("count", None),
        ("count", float("inf")),
        ("rate", "fast"),
        ("rate", False),
        ("rate", float("nan")),
        ("rate", float("inf")),
        ("rate", -float("inf")),
        ("rate", 10**400),
        ("name", 3),
        ("evergreen", 1),
        ("evergreen", "yes"),
        ("kind", "palm"),
        ("kind", True),
        ("limit", "none"),
        ("targets", None),
        ("targets", [1]),
        ("shots", 1),
        ("shots", "1"),
        ("leaves", "a"),
        ("leaves", {"path": "a"}),
        ("extra", [1]),
    ],
)
def test_a_wrong_type_names_path_rule_and_value(key: str, value: object):
    message = message_of({key: value})
    assert message.startswith(f"tree.{key} must be ")
    assert f"got {value!r}" in message
    assert "\n" not in message


def test_an_element_of_a_wrong_type_is_named_by_its_index():
    assert message_of({"shots": [0, "one"]}).startswith("tree.shots[1] must be integer, got 'one'")


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"leaves": ["a", {"path": "b", "shear": 1}]}, "tree.leaves[1].shear is no known key."),
        ({"leaves": [{"share": 1}]}, "tree.leaves[0].path must be given"),
        ({"nested": {"path": "a", "share": "x"}}, "tree.nested.share must be number, got 'x'"),
        ({"nested": {"path": "a", "share": -1}}, "tree.nested.share must be 0 or more, got -1.0"),
        ({"leaves": ["a", {"path": "b", "share": -1}]}, "tree.leaves[1].share must be 0 or more"),
        ({"nested": 3}, "tree.nested must be a mapping, got 3"),
        (["count"], "tree must be a mapping, got ['count']"),
    ],
)
def test_an_error_in_a_nested_section_has_its_whole_path(values: object, start: str):
    assert message_of(values).startswith(start)


def test_an_unknown_key_gets_the_nearest_name():
    assert message_of({"cuont": 1}) == "tree.cuont is no known key. Did you mean 'count'?"


def test_an_unknown_key_like_no_other_gets_all_names():
    assert "Valid names: count, evergreen, extra" in message_of({"zzzzzz": 1})


def test_null_means_null_only_where_the_type_says_so():
    assert build(Tree, {"limit": None, "nested": None}, "tree") == Tree()


@pytest.mark.parametrize(
    "text",
    ["a: 1\na: 2", "a: {b: 1, b: 2}", "l: [{b: 1, b: 2}]", '{"a": 1, a: 2}'],
)
def test_a_key_given_twice_is_refused_with_its_line(text: str):
    with pytest.raises(ConfigError, match=r"^run\.yaml:[12]: key '[ab]' must appear once"):
        parse_yaml(text, "run.yaml")


def test_merge_keys_of_yaml_work_and_may_be_overridden():
    tree = parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", "run.yaml")
    assert tree["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: b: c",
        "a: \x01",
        "? [1]\n: 2",
        "a: 2024-13-41",
        "!!python/name:os.system x",
        "*a",
    ],
)
def test_what_is_no_yaml_is_one_line_that_says_where(text: str):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "run.yaml")
    assert str(caught.value).startswith("run.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "got nothing"),
        (b"# a comment alone\n", "got nothing"),
        (b"- a\n", "got list"),
        (b"7", "got integer"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
    ],
)
def test_a_file_without_a_mapping_is_refused(tmp_path, content: bytes, what: str):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"run\.yaml .*{what}"):
        read_yaml(path)


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r" must be a YAML file, got a folder\."):
        read_yaml(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^No configuration .*absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("rate", "1e-5", 1e-5),
        ("count", "4", 4),
        ("evergreen", "true", True),
        ("limit", "null", None),
        ("limit", "", None),
        ("shots", "[0, 1]", [0, 1]),
        ("extra", "{a: 1}", {"a": 1}),
        ("name", "2024", "2024"),
        ("name", "no", "no"),
        ("name", "a: b", "a: b"),
        ("name", "'quoted'", "quoted"),
        ("name", "null", "null"),
        ("targets", "[q, v]", ["q", "v"]),
        ("targets", "all", "all"),
    ],
)
def test_an_override_is_read_by_the_declared_type(key: str, text: str, value: object):
    assert parse_override(text, type_at(Tree, [key]), "override") == value


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        (["count"], int),
        (["leaves", "0"], Leaf),
        (["leaves", "0", "path"], str),
        (["nested", "share"], float),
        (["extra", "anything"], Any),
        (["unknown"], Any),
        (["count", "below"], Any),
    ],
)
def test_the_type_at_a_dotted_path(keys: list[str], hint: object):
    assert type_at(Tree, keys) is hint


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "integer or null"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (list[Leaf], "list of mapping or string"),
        (str | list[str], "string or list of string"),
        (dict[str, Any], "mapping"),
        (bool, "true or false"),
    ],
)
def test_types_are_written_as_a_user_would(hint: object, words: str):
    assert describe_type(hint) == words


def test_docstrings_of_fields_are_inherited_and_may_be_replaced():
    @dataclass(frozen=True)
    class Oak(Tree):
        count: int = 1
        """How many oaks."""

    docs = field_docs(Oak)
    assert docs["count"] == "How many oaks."
    assert docs["rate"] == "How fast."


def test_a_rule_of_a_list_names_the_element():
    @dataclass(frozen=True)
    class Forest(Section):
        leaves: list[Leaf] = field(default_factory=list)
        """The leaves."""
        nested: Leaf = field(default_factory=lambda: Leaf("root"))
        """One leaf."""

        def problems(self) -> Iterator[Problem]:
            if len(self.leaves) > 1:
                yield Problem("leaves[1].path", "be first", "Move it.")
            yield Problem("nested.path", "be a leaf", "Cut it.")

    with pytest.raises(ConfigError) as caught:
        build(Forest, {"leaves": ["a", "b"]}, "wood")
    assert str(caught.value) == "wood.leaves[1].path must be first, got 'b'. Move it."
    with pytest.raises(ConfigError) as caught:
        build(Forest, {}, "wood")
    assert str(caught.value) == "wood.nested.path must be a leaf, got 'root'. Cut it."
