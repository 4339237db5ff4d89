"""Measure two sides alternating, each measurement in a fresh process, and compare them in pairs.

A side is a module that ``start_side`` runs with one JSON argument, and that ends with one JSON line
(``answer``). A comparison is made pair by pair, ours over the peer's, so that what slows the
machine down for a while slows both; the side that goes first changes from pair to pair.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import SteerlineError

ROOT = Path(__file__).parents[1]
Figures = dict[str, Any]


class SideError(SteerlineError):
    """Report a side that did not end with its figures."""


class Ratio(NamedTuple):
    """Ours over the peer's: the median of the pairs, the lowest and the highest of them."""

    ratio: float
    low: float
    high: float


def compare(ours: Sequence[float], peers: Sequence[float]) -> Ratio:
    """Compare two sides pair by pair.

    Args:
        ours: a rate a pair, more is better.
        peers: the other side's, in the same order.
    """
    ratios = [mine / theirs for mine, theirs in zip(ours, peers, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def alternate(
    sides: Mapping[str, Callable[[int], Figures]],
    pairs: int,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Figures]]:
    """Measure every side once a pair, the order turned round from pair to pair.

    Args:
        sides: what measures a side, by name; takes the number of the pair, from 0.
        pairs: how many times.
        note: told of every measurement as it is done.
    Returns:
        Each side's figures, a pair after the other.
    """
    measured: dict[str, list[Figures]] = {name: [] for name in sides}
    for pair in range(pairs):
        order = list(sides) if pair % 2 == 0 else list(sides)[::-1]
        for name in order:
            measured[name].append(sides[name](pair))
            note(f"pair {pair + 1} of {pairs}, {name}: {measured[name][-1]}")
    return measured


def start_side(
    module: str, order: Mapping[str, Any], *, threads: int, path: Path | None = None
) -> Figures:
    """Run a side in a fresh process and return what it answers.

    Args:
        module: run as ``python -m MODULE ORDER``.
        order: what to measure, as JSON.
        threads: that it may compute with.
        path: folder whose packages go before the installed ones.
    Raises:
        SideError: if it fails; ends with the last line that it wrote.
    """
    search = [str(folder) for folder in (path, ROOT) if folder is not None]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(search),
        "OMP_NUM_THREADS": str(threads),
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [sys.executable, "-m", module, json.dumps(order)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise SideError(
            f"A side of the benchmark must end with its figures, got exit code {done.returncode} "
            f"from {module} ({said[-1]}). Run it alone: {module} '{json.dumps(order)}'"
        )
    figures: Figures = json.loads(lines[-1])
    return figures


def answer(figures: Mapping[str, Any]) -> None:
    """End a side, or a benchmark: print one JSON line."""
    print(json.dumps(figures), flush=True)


def note(line: str) -> None:
    """Tell the user how far it is, where it does not mix with the table."""
    print(line, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table whose columns are aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    ruled = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in ruled
    )


def spread(figures: Mapping[str, Any]) -> str:
    """Write a ratio and its spread over the pairs, as ``1.50 [1.42, 1.61]``."""
    return f"{figures['ratio']:.2f} [{figures['low']:.2f}, {figures['high']:.2f}]"


def median_of(figures: Sequence[Figures], name: str) -> float:
    """Return the median of one figure over the pairs."""
    return statistics.median(float(one[name]) for one in figures)


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Return a benchmark's parser, with the arguments that all of them take."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="a tiny shape and one pair")
    made.add_argument("--pairs", type=_positive, help="fresh processes a side and case")
    made.add_argument("--threads", type=_positive, default=available_cores(), help="of a process")
    return made


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)


def available_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
