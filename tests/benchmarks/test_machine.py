from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from benchmarks.machine import matmul_rate, peak_memory
from benchmarks.side_by_side import ROOT

HELD = 200 * 2**20


def child(code: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return int(done.stdout)


def test_the_peak_stays_after_memory_is_given_back() -> None:
    code = (
        "from benchmarks.machine import peak_memory\n"
        "before = peak_memory()\n"
        f"held = bytearray(b'x') * {HELD}\n"
        "del held\n"
        "print(peak_memory() - before)"
    )
    # The interpreter's own pages come on top.
    assert child(code) == pytest.approx(HELD, rel=0.05)


def test_a_childs_peak_is_not_its_parents() -> None:
    held = bytearray(b"x") * HELD
    assert peak_memory() > HELD
    assert child("from benchmarks.machine import peak_memory; print(peak_memory())") < HELD / 2
    del held


def test_the_rate_is_that_of_a_timed_product() -> None:
    size = 512
    rate = matmul_rate(torch.float32, size=size, seconds=0.3)
    left, right = torch.randn(2, size, size)
    shortest = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(left, right)
        shortest = min(shortest, time.perf_counter() - start)
    # Other processes may slow either measurement down.
    assert rate == pytest.approx(2 * size**3 / shortest, rel=0.7)
