"""Draw from the tiny world what a source ``tiny:NAME`` names.

The world is imported on use: reading a file needs none of it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from pipeline.config.source import Source
from pipeline.data.rows import TINY
from pipeline.errors import DataError, nearest
from pipeline.records import Demonstration, Prompt

DOCUMENTS = ("facts", "stories", "dialogues", "lists", "patterns", "web")
DEFAULT_COUNT = {"train": 2000, "validation": 200, "test": 200}
"""Demonstrations or prompts of a split where the source sets no limit."""


def is_tiny(source: Source) -> bool:
    """Say whether the source is drawn from the tiny world."""
    return source.path.startswith(TINY)


def draw_documents(source: Source, seed: int) -> Iterator[str]:
    """Yield documents up to the limit; without one they never end, and none comes twice."""
    from pipeline.world import World

    name = _name(source, "documents", DOCUMENTS)
    return World(seed).documents(name, source.limit or sys.maxsize, source.split)


def draw_demonstrations(source: Source, seed: int) -> list[Demonstration]:
    """Return as many demonstrations as the limit says, else ``DEFAULT_COUNT``."""
    from pipeline.world import World

    _name(source, "demonstrations", ("demonstrations",))
    return World(seed).demonstrations(source.split, _count(source))


def draw_prompts(source: Source, seed: int) -> list[Prompt]:
    """Return as many prompts as the limit says, else ``DEFAULT_COUNT``."""
    from pipeline.world import World

    _name(source, "prompts", ("prompts",))
    return World(seed).prompts(source.split, _count(source))


def refuse_tiny_rankings(source: Source) -> None:
    """Refuse to read rankings of the tiny world, which come from its simulated labelers.

    Raises:
        DataError: if the source is the tiny world's.
    """
    if is_tiny(source):
        raise DataError(
            f"{source.path} must be a source of rankings, and the tiny world has none of its own. "
            "Set label.simulated, and read 'store:'."
        )


def hash_world() -> str:
    """Return the SHA-256 of the world's source code: what it draws is decided there alone."""
    import pipeline.world

    digest = hashlib.sha256()
    for folder in pipeline.world.__path__:
        for file in sorted(Path(folder).glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _count(source: Source) -> int:
    return source.limit or DEFAULT_COUNT[source.split]


def _name(
    source: Source,
    kind: Literal["documents", "demonstrations", "prompts"],
    valid: Collection[str],
) -> str:
    name = source.path.removeprefix(TINY)
    if name not in valid:
        raise DataError(
            f"{source.path} must name {kind} of the tiny world, got {name!r}.{nearest(name, valid)}"
        )
    return name
