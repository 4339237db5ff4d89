"""Put mistakes into copies of the code, one at a time, and see that a test notices each.

``python -m tests.mutants [NAME ...] [--jobs N]`` first runs the mutants' tests on the code as it
is, then prints a line a mutant and how many were killed. Exit code 1 if one was not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.runner import BaselineError, Runner
from tests.mutants.table import MUTANTS

ROOT = Path(__file__).parents[2]


def report(runner: Runner, mutants: Sequence[Mutant], jobs: int) -> int:
    """Judge mutants, print the table, and return the exit code."""
    started = time.monotonic()
    try:
        runner.check_baseline(mutants)
    except BaselineError as error:
        print(f"The tests must pass without a mutant:\n{error}", file=sys.stderr)
        return 1
    width = max(len(mutant.name) for mutant in mutants)
    killed = 0
    for outcome in runner.judge_all(mutants, jobs):
        killed += outcome.verdict == "killed"
        print(
            f"{outcome.mutant.name:{width}}  {outcome.verdict:14}  {outcome.seconds:5.1f} s  "
            f"{outcome.detail}",
            flush=True,
        )
    print(f"{killed} of {len(mutants)} mutants killed in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(mutants) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a mutant's name")
    parser.add_argument("--jobs", type=int, default=2, choices=range(1, 65), metavar="N")
    given = parser.parse_args(argv)
    chosen = [
        mutant
        for mutant in MUTANTS
        if not given.names or any(name in mutant.name for name in given.names)
    ]
    if not chosen:
        parser.error(f"no mutant's name holds {' or '.join(map(repr, given.names))}")
    return report(Runner(ROOT), chosen, given.jobs)


if __name__ == "__main__":
    raise SystemExit(main())
