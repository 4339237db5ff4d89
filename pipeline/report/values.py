"""Read numbers and intervals out of what files hold, which may be anything."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.bootstrap import Interval


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else; true and false are 1 and 0."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def read_interval(found: object, estimate: str = "estimate") -> Interval | None:
    """Return a figure with the ends of its interval, None where one of the three is missing.

    Args:
        found: what a file holds: a mapping with the estimate, ``low`` and ``high``.
        estimate: the estimate's name in it.
    """
    if not isinstance(found, Mapping):
        return None
    ends = [number(found.get(name)) for name in (estimate, "low", "high")]
    whole = [end for end in ends if end is not None]
    return Interval(*whole) if len(whole) == len(ends) else None
