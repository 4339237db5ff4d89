"""Compare our rollouts with ``model.generate``: completions a second.

``python -m benchmarks.rollout_vs_hf [--quick] [--threads N] [--pairs 3]`` prints a table and, as
its last line, one JSON object whose ``ratio`` is ours over transformers'.

Same weights (random, of SmolLM2-135M's shape), prompts, batch and sampling (temperature 1, nothing
truncated), fp32, both in fresh processes, alternating. Completions are as long as a recorded SFT
model's on held-out prompts (``results/completion-lengths.json``), by one logits processor on both
sides (``benchmarks.forced_lengths``); the lengths that came out are checked.

Where the work differs: ours drops a row from the batch when it ends, and draws each row's tokens by
numbers of its own; ``generate`` runs every row until the longest has ended, and draws from one
generator.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

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
from benchmarks.subjects import make_models, spread_of
from stages.entry import run_command

SIDES = ("ours", "transformers")


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        shape: of the policy.
        prompt_tokens: of every prompt.
        max_new_tokens: limit of a completion.
        batch: completions at once.
        batches: that are timed, after one that is not.
        pairs: processes a side.
    """

    shape: str
    prompt_tokens: int
    max_new_tokens: int
    batch: int
    batches: int
    pairs: int


FULL = Size("smollm2-135m", 64, 64, batch=32, batches=2, pairs=3)
QUICK = Size("tiny", 16, 16, batch=8, batches=1, pairs=1)


def measure(size: Size, lengths: Sequence[int], threads: int) -> dict[str, list[Figures]]:
    """Return each side's figures, one a pair; pairs go on in the recorded list."""
    policy, count = make_models(size.shape).policy, size.batch * (size.batches + 1)

    def run(name: str, pair: int) -> Figures:
        order = {
            "side": name,
            "shape": size.shape,
            "policy": str(policy),
            "prompt_tokens": size.prompt_tokens,
            "max_new_tokens": size.max_new_tokens,
            "lengths": [lengths[(pair * count + i) % len(lengths)] for i in range(count)],
            "batch": size.batch,
            "threads": threads,
        }
        return start_side("benchmarks.rollout_sides", order, threads=threads)

    sides = {name: functools.partial(run, name) for name in SIDES}
    return alternate(sides, size.pairs, note)


def summarize(measured: dict[str, list[Figures]]) -> Figures:
    """Put the pairs together."""
    names = ("completions_per_second", "tokens_per_second", "peak_bytes")
    by_side = {
        name: {figure: median_of(figures, figure) for figure in names}
        for name, figures in measured.items()
    }
    paired = [[one["completions_per_second"] for one in measured[name]] for name in SIDES]
    return {**compare(*paired)._asdict(), **by_side}


def show(found: Figures) -> str:
    """Lay out the sides as a table."""
    header = ["side", "completions/s", "tokens/s", "peak GiB", "ours / transformers [low, high]"]
    rows = [
        [
            name,
            f"{found[name]['completions_per_second']:.3f}",
            f"{found[name]['tokens_per_second']:.1f}",
            f"{found[name]['peak_bytes'] / 2**30:.2f}",
            spread(found) if name == "ours" else "",
        ]
        for name in SIDES
    ]
    return table(header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    given = parser("rollout_vs_hf", __doc__).parse_args(argv)

    def work() -> None:
        from benchmarks.forced_lengths import recorded_lengths

        size = QUICK if given.quick else FULL
        size = size._replace(pairs=given.pairs or size.pairs)
        lengths = recorded_lengths(size.max_new_tokens)
        found = summarize(measure(size, lengths, given.threads))
        tokens = spread_of([min(length, size.max_new_tokens) for length in lengths])
        print(show(found))
        print(f"Recorded lengths, tokens: {tokens}")
        answer({**found, "lengths": tokens, "threads": given.threads, **size._asdict()})

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
