"""Say which items come next, as a function of how many came before: nothing to save or restore."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def permutation(size: int, *key: object) -> Tensor:
    """Return a permutation of ``range(size)`` that depends on the key alone."""
    generator = torch.Generator().manual_seed(_number(*key))
    return torch.randperm(size, generator=generator)


def seed_generators(*key: object) -> None:
    """Set torch's own generators, on every device, to a state that depends on the key alone."""
    torch.manual_seed(_number(*key))


def _number(*key: object) -> int:
    digest = hashlib.sha256(":".join(str(part) for part in key).encode()).digest()
    return int.from_bytes(digest[:7], "little")


class Cursor:
    """Go through items in a new order each epoch, none repeated within it.

    Args:
        size: how many items there are.
        seed: the run's.
        name: tells the cursors of one run apart.
    """

    def __init__(self, size: int, seed: int, name: str) -> None:
        self.size = size
        self._key = (seed, name)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def take(self, start: int, count: int) -> list[int]:
        """Return the items number ``start`` to ``start + count - 1`` of the endless sequence."""
        return [self._item(number) for number in range(start, start + count)]

    def _item(self, number: int) -> int:
        epoch, place = divmod(number, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, permutation(self.size, *self._key, epoch)
        return int(self._order[place])
