from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.demo_seeds import Resampled, intervals, recovered, tax_recovered


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


def test_ptx_recovers_a_share_of_what_was_lost():
    assert recovered(0.6, 0.4, 0.55) == pytest.approx(0.75)
    assert recovered(0.6, 0.65, 0.7) is None
    run = {
        "base": {"fewshot": 0.6, "perplexity": math.exp(1)},
        "ppo@no_ptx": {"fewshot": 0.4, "perplexity": math.exp(3)},
        "ppo": {"fewshot": 0.6, "perplexity": math.exp(1.5)},
    }
    assert tax_recovered(run) == pytest.approx({"fewshot": 1.0, "log_perplexity": 0.75})
