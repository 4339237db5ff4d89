"""Turn keys into randomness and into splits, the same in every process and on every machine.

Python's ``hash`` of a string changes between processes; everything here goes through SHA-256.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Seven of ten combinations train: enough to learn a rule from, and enough left to test it on.
SPLIT_OF_TENTH: tuple[Split, ...] = (
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "validation",
    "test",
    "test",
)


def keyed_number(*parts: object) -> int:
    """Return a 64-bit number that depends on nothing but the text of ``parts``."""
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def keyed_random(*parts: object) -> random.Random:
    """Return a generator of its own for the key ``parts``."""
    return random.Random(keyed_number(*parts))


def split_of(kind: str, entities: tuple[str, ...]) -> Split:
    """Assign an entity combination, whatever its order, to one split for good."""
    return SPLIT_OF_TENTH[keyed_number("split", kind, *sorted(entities)) % 10]
