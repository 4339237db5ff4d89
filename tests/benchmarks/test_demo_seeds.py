from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.demo_seeds import Resampled, intervals


def seed(values):
    values = np.asarray(values, dtype=float)
    return Resampled(len(values), {"one": values, "two": values + 1})


def test_columns_are_resampled_at_the_same_rows():
    rng = np.random.default_rng(0)
    bounds = intervals([seed(rng.normal(size=200)) for _ in range(3)])
    assert np.subtract(bounds["two"], bounds["one"]) == pytest.approx([1, 1, 1], abs=1e-9)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    same = intervals([seed(noise), seed(noise), seed(noise)])["one"]
    apart = intervals([seed(noise - 1), seed(noise), seed(noise + 1)])["one"]
    assert apart[0] == pytest.approx(same[0])
    assert apart[2] - apart[1] > 5 * (same[2] - same[1])
    # Three equal seeds of 400 rows: the mean's own standard error, over 3 x 400 draws.
    width = same[2] - same[1]
    assert width == pytest.approx(2 * 1.96 * noise.std() / math.sqrt(1200), rel=0.1)
