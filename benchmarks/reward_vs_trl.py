"""Compare our K-wise reward stage with TRL's pairwise ``RewardTrainer``: comparisons a second.

``python -m benchmarks.reward_vs_trl [--quick] [--threads N] [--pairs 3]`` prints a table and, as
its last line, one JSON object with the keys ``k4`` and ``k9``.

Same weights, same rankings, same comparisons a step, same optimizer and schedule, fp32, both in
fresh processes, alternating. The rankings follow a hidden rule with noise
(``reward_sides.draw_rankings``), so that accuracy on held-out ones says whether both learned it.

Where the work differs: ours runs each of a prompt's K completions once and compares all of them;
TRL's runs both completions of each of the K (K - 1) / 2 pairs, K - 1 times as many in all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.side_by_side import (
    Figures,
    alternate,
    answer,
    compare,
    median_of,
    note,
    parser,
    spread,
    start_side,
    table,
)
from benchmarks.subjects import make_models
from stages.entry import run_command

SIDES = ("ours", "trl")


class Case(NamedTuple):
    """One K, and how much of it is trained on; fields as of ``reward_sides.Order``."""

    k: int
    rankings: int
    held_out: int
    batch: int
    micro_batch: int


class Size(NamedTuple):
    """How much is measured: the model's shape, processes a side, and the cases by JSON key."""

    shape: str
    pairs: int
    cases: dict[str, Case]


FULL = Size("small", 3, {"k4": Case(4, 192, 256, 8, 8), "k9": Case(9, 80, 128, 8, 4)})
QUICK = Size("tiny", 1, {"k4": Case(4, 32, 16, 8, 8), "k9": Case(9, 16, 16, 8, 4)})
LEARNING_RATE = 3e-3
"""For random weights and a dozen or two of steps."""


def measure(size: Size, case: Case, threads: int) -> dict[str, list[Figures]]:
    """Return each side's figures, one a pair."""
    reward = make_models(size.shape).reward

    def run(side: str, _: int) -> Figures:
        order: dict[str, Any] = {
            "side": side,
            "shape": size.shape,
            "reward": str(reward),
            "learning_rate": LEARNING_RATE,
            "threads": threads,
            **case._asdict(),
        }
        return start_side("benchmarks.reward_sides", order, threads=threads)

    sides = {side: functools.partial(run, side) for side in SIDES}
    return alternate(sides, size.pairs, note)


def summarize(measured: dict[str, list[Figures]]) -> Figures:
    """Put one case's pairs together."""
    names = ("comparisons_per_second", "accuracy", "low", "high", "steps", "peak_bytes")
    by_side = {
        side: {name: median_of(figures, name) for name in names}
        for side, figures in measured.items()
    }
    paired = [[one["comparisons_per_second"] for one in measured[side]] for side in SIDES]
    return {**compare(*paired)._asdict(), **by_side}


def show(found: dict[str, Figures], cases: dict[str, Case]) -> str:
    """Lay out the cases as a table, a line a side."""
    header = ["K", "side", "comparisons/s", "steps", "held-out accuracy [95 %]", "peak GiB"]
    header += ["ours / TRL [low, high]"]
    rows = []
    for name, figures in found.items():
        for side in SIDES:
            one = figures[side]
            rows.append(
                [
                    str(cases[name].k) if side == "ours" else "",
                    side,
                    f"{one['comparisons_per_second']:.1f}",
                    f"{one['steps']:.0f}",
                    f"{one['accuracy']:.3f} [{one['low']:.3f}, {one['high']:.3f}]",
                    f"{one['peak_bytes'] / 2**30:.2f}",
                    spread(figures) if side == "ours" else "",
                ]
            )
    return table(header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    given = parser("reward_vs_trl", __doc__).parse_args(argv)

    def work() -> None:
        size = QUICK if given.quick else FULL
        size = size._replace(pairs=given.pairs or size.pairs)
        found = {}
        for name, case in size.cases.items():
            note(f"K = {case.k}")
            found[name] = summarize(measure(size, case, given.threads))
        print(show(found, size.cases))
        answer({**found, "pairs": size.pairs, "threads": given.threads, "shape": size.shape})

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
