"""Say what the machine can do: its matmul rate a type of number, and a process's peak memory.

``python -m benchmarks.machine '{"threads": 2}'`` measures the rates and ends with one JSON line.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import answer

SIZE, SECONDS = 2048, 1.0


def peak_memory() -> int:
    """Return the most memory that this process has held, bytes.

    From ``/proc``, where there is one: what ``getrusage`` calls the peak survives ``exec``, and a
    small child of a large parent would show its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Bytes on macOS, kibibytes on Linux.
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matmul_rate(dtype: Any, size: int = SIZE, seconds: float = SECONDS) -> float:
    """Return the best rate of square matrix products, in floating-point operations a second.

        rate = 2 size^3 / (shortest time of one product)

    Args:
        dtype: a torch type.
        size: rows and columns.
        seconds: how long to go on trying.
    """
    import torch

    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    torch.mm(left, right)
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        shortest = min(shortest, time.perf_counter() - start)
    return 2 * size**3 / shortest


def main() -> None:
    """Measure the machine as a side of a benchmark."""
    import torch

    torch.set_num_threads(json.loads(sys.argv[1])["threads"])
    rates = {
        "float32": matmul_rate(torch.float32),
        "bf16": matmul_rate(torch.bfloat16),
    }
    answer(
        {
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "matmul_flops_per_second": rates,
        }
    )


if __name__ == "__main__":
    main()
