"""Run tests against mutants, each in a copy of the project of its own.

Most of such a test's time goes into importing its libraries, which no mutant changes. So the tests
run in processes that are forked from one that has imported the libraries, and nothing of the
project (where there is no such fork, each process imports them itself).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
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
LIBRARIES = (
    *("torch", "accelerate", "peft", "scipy.optimize", "transformers.generation"),
    *("transformers.models.llama.modeling_llama", "trl.trainer.reward_trainer"),
    "trl.trainer.sft_trainer",
)
"""What nearly every test imports; one that is left out costs time and nothing else."""
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "build", "dist")
"""What no test of a mutant reads; ``.venv`` and ``.git`` among it."""
SECONDS = 300
"""A mutant whose tests take longer is broken: it hangs instead of failing."""


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


class Runner:
    """Judge mutants of a project, whose own folder is only read.

    Args:
        root: of the project.
        libraries: what to import once for all tests.
    """

    def __init__(self, root: Path, libraries: Sequence[str] = LIBRARIES) -> None:
        self.root = root
        # Before the process that imports the libraries, and with them counts the threads.
        os.environ["OMP_NUM_THREADS"] = "1"
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver" if forks else "spawn")
        self._context.set_forkserver_preload(list(libraries))

    def check_baseline(self, mutants: Iterable[Mutant]) -> None:
        """Run all tests that mutants name on the code as it is.

        Raises:
            BaselineError: if a test fails, or is not there.
        """
        tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.test_ids))
        with self._copy() as copy:
            code, output = self._run_tests(copy, tests)
        if code != 0:
            raise BaselineError(output)

    def judge_all(self, mutants: Sequence[Mutant], jobs: int) -> Iterator[Outcome]:
        """Yield the outcomes in the mutants' order, ``jobs`` of them at work at a time."""
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(self.judge, mutants)

    def judge(self, mutant: Mutant) -> Outcome:
        """Run a mutant's tests on a copy of the project with the mutant in it."""
        started = time.monotonic()
        verdict, detail = self._try(mutant)
        return Outcome(mutant, verdict, detail, time.monotonic() - started)

    def _try(self, mutant: Mutant) -> tuple[Verdict, str]:
        with self._copy() as copy:
            try:
                mutant.apply(copy)
            except DoesNotApplyError as error:
                return "does not apply", str(error)
            code, output = self._run_tests(copy, mutant.test_ids, SECONDS)
        if code == 0:
            return "survived", mutant.why
        if code == 1:
            return "killed", _failed_test(output)
        # The module cannot be imported, or a test is not there: that is no test failing.
        return "broken", output.splitlines()[-1] if code else f"no result after {SECONDS} seconds"

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(shutil.copytree(self.root, Path(folder) / "copy", ignore=LEFT_OUT))

    def _run_tests(
        self, copy: Path, tests: Sequence[str], seconds: float | None = None
    ) -> tuple[int | None, str]:
        """Return pytest's exit code, None after too many seconds, and what it printed."""
        log = copy.parent / "log"
        process = self._context.Process(target=_test_in, args=(copy, log, tests))
        process.start()
        process.join(seconds)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        return code, log.read_text(encoding="utf-8", errors="replace").strip()


def _test_in(copy: Path, log: Path, tests: Sequence[str]) -> None:
    """Be a process of its own that runs tests in a copy until one fails."""
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    # Plugins that the suite does without may be imported already, which pytest warns of.
    os.environ |= {"PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    import pytest

    options = ("-x", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider")
    raise SystemExit(int(pytest.main([*options, *tests])))


def _failed_test(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[-1].split(" - ")[0].split("::")[-1] if lines else "a test failed"
