"""Run tests against mutants, each in a copy of the project of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.mutants.mutant import DoesNotApplyError, Mutant

Verdict = Literal["killed", "survived", "does not apply", "broken"]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "build", "dist")
"""What no test of a mutant reads; ``.venv`` and ``.git`` among it."""
SECONDS = 300
"""A mutant that takes longer is broken: it hangs instead of failing."""


class BaselineError(Exception):
    """The tests fail without any mutant, so that their failing would show nothing."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        mutant: which.
        verdict: ``killed`` is the good one; ``broken`` where pytest could not run the tests.
        detail: the test that failed, or what is wrong.
        seconds: how long it took.
    """

    mutant: Mutant
    verdict: Verdict
    detail: str
    seconds: float


def run_tests(
    root: Path, tests: Sequence[str], seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy of the project until one fails, for no longer than some seconds."""
    # No byte code: it is valid by size and second, and mutants may share both with the original.
    alone = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    options = ("-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=root,
        env={**os.environ, **alone},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def check_baseline(root: Path, mutants: Iterable[Mutant]) -> None:
    """Run all that the mutants name on the code as it is.

    Raises:
        BaselineError: if a test fails, or is not there.
    """
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.test_ids))
    with tempfile.TemporaryDirectory() as folder:
        done = run_tests(_copy(root, folder), tests)
    if done.returncode:
        raise BaselineError(f"{done.stdout}\n{done.stderr}".strip())


def judge(root: Path, mutant: Mutant) -> Outcome:
    """Run a mutant's tests on a copy of the project with the mutant in it."""
    started = time.monotonic()

    def outcome(verdict: Verdict, detail: str) -> Outcome:
        return Outcome(mutant, verdict, detail, time.monotonic() - started)

    with tempfile.TemporaryDirectory() as folder:
        copy = _copy(root, folder)
        try:
            mutant.apply(copy)
            done = run_tests(copy, mutant.test_ids, SECONDS)
        except DoesNotApplyError as error:
            return outcome("does not apply", str(error))
        except subprocess.TimeoutExpired:
            return outcome("broken", f"no result after {SECONDS} seconds")
    if done.returncode == 0:
        return outcome("survived", mutant.why)
    if done.returncode == 1:
        return outcome("killed", _failed_test(done.stdout))
    # The module cannot be imported, or a test is not there: that is no test failing.
    return outcome("broken", (done.stdout + done.stderr).strip().splitlines()[-1])


def judge_all(root: Path, mutants: Sequence[Mutant], jobs: int) -> Iterator[Outcome]:
    """Yield the outcomes in the mutants' order, ``jobs`` of them at work at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda mutant: judge(root, mutant), mutants)


def _copy(root: Path, folder: str) -> Path:
    return Path(shutil.copytree(root, Path(folder) / "copy", ignore=LEFT_OUT))


def _failed_test(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0].split(" - ")[0].split("::")[-1] if lines else "a test failed"
