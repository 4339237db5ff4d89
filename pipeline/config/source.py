"""Say where a stage's data comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.config.schema import Problem, Section


@dataclass(frozen=True)
class Source(Section):
    """One source of data; in the YAML a plain string stands for its path alone."""

    path: str
    """``tiny:NAME``, ``store:`` (the label store), a .jsonl or .txt file, or a data set's name."""
    split: Literal["train", "validation", "test"] = "train"
    """Which split to read; a file is one split as it is."""
    weight: float = 1.0
    """Share of this source in a mixture, relative to the others (LLaMA, table 1)."""
    limit: int | None = None
    """Read at most this many records, drawn with the run's seed; null reads all."""
    max_characters: int | None = None
    """Leave out records longer than this, the prompt with its longest answer; null keeps all."""
    subset: str | None = None
    """Configuration name of a Hugging Face data set."""
    format: Literal["auto", "text", "alpaca", "qa", "oasst", "pandalm"] = "auto"
    """How to read a row; ``auto`` goes by its keys."""
    empty: Literal["refuse", "drop"] = "refuse"
    """Refuse a row with an empty text, or drop it with a warning; published sets are dropped."""

    @classmethod
    def from_scalar(cls, path: str) -> dict[str, str]:
        """Read a plain string as the path."""
        return {"path": path}

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if not self.path:
            yield Problem("path", "name a source", "Give a file, a data set or tiny:NAME.")
        if self.weight < 0:
            yield Problem("weight", "be 0 or more", "Use a share such as 0.5.")
        if self.limit is not None and self.limit < 1:
            yield Problem("limit", "be 1 or more, or null", "Leave it out to read all.")
        if self.max_characters is not None and self.max_characters < 1:
            yield Problem("max_characters", "be 1 or more, or null", "Leave it out to keep all.")
        if self.max_characters is not None and self.path.startswith("tiny:"):
            yield Problem("max_characters", "be null for the tiny world", "Leave it out.")
