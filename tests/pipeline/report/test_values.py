from __future__ import annotations

import math

import pytest

from pipeline.bootstrap import Interval
from pipeline.report.values import number, read_interval


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1.0), (3, 3.0), (-0.5, -0.5), (math.nan, None), (math.inf, None), ("3", None)],
)
def test_a_number_is_finite(value: object, expected: float | None) -> None:
    assert number(value) == expected


@pytest.mark.parametrize("value", [None, 3, {}, {"estimate": 1.0, "low": None, "high": 2.0}])
def test_an_incomplete_interval_is_none(value: object) -> None:
    assert read_interval(value) is None


def test_an_interval_is_read_by_its_estimates_name() -> None:
    found = {"difference": 0.5, "low": 0.25, "high": 1}
    assert read_interval(found, "difference") == Interval(0.5, 0.25, 1.0)
    assert read_interval(found) is None
