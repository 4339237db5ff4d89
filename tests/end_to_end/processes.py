"""Run modules in processes forked from one that has imported the libraries.

A command of the micro line takes a second or two, and importing torch, transformers and the rest
takes longer. So such a process is forked from one that has imported the libraries, and nothing of
the project, and there runs its module as ``python -m`` would: as ``__main__``, in a process of its
own, which can be killed like any other. Where there is no fork server, each imports them itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

LIBRARIES = (
    *("pytest", "torch", "accelerate", "datasets", "peft", "lm_eval.evaluator", "scipy.stats"),
    *("alembic.command", "lm_eval.models.huggingface", "matplotlib.figure", "sqlalchemy.orm"),
    *("sklearn.feature_extraction.text", "sklearn.linear_model", "transformers.trainer"),
    *("transformers.generation", "transformers.models.llama.modeling_llama"),
    *("trl.trainer.reward_trainer", "trl.trainer.sft_trainer"),
)
"""What stages import; one that is left out costs time and nothing else."""


@dataclass(frozen=True)
class Started:
    """Hold the processes of one command, which may still run.

    Attributes:
        words: the module and its arguments.
        processes: one, or several that were told of each other.
        logs: a folder with ``N.out`` and ``N.err`` of process N.
    """

    words: Sequence[str]
    processes: Sequence[multiprocessing.process.BaseProcess]
    logs: Path

    @property
    def running(self) -> bool:
        """Tell whether every process still runs."""
        return all(process.exitcode is None for process in self.processes)

    @property
    def stderr(self) -> str:
        """Return what all of them wrote so far."""
        return self._read("err")

    def kill(self) -> None:
        """End every process without warning."""
        for process in self.processes:
            process.kill()
        self.wait()

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for every process, and return the first exit code that is not 0."""
        for process in self.processes:
            process.join()
        codes = [process.exitcode or 0 for process in self.processes]
        code = next(filter(None, codes), 0)
        return subprocess.CompletedProcess(self.words, code, self._read("out"), self.stderr)

    def wait_until(self, reached: Callable[[], bool], seconds: float = 240) -> None:
        """Return as soon as the command has reached something; it must still run then."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.running, self.stderr
            assert time.monotonic() < deadline, f"{self.words}: not reached in {seconds} s"
            time.sleep(0.01)

    def _read(self, kind: str) -> str:
        files = sorted(self.logs.glob(f"*.{kind}"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def start_module(
    words: Sequence[str], environments: Sequence[Mapping[str, str]], folder: Path, logs: Path
) -> Started:
    """Start a module, once in each environment.

    Args:
        words: the module and its arguments.
        environments: all variables of each process.
        folder: where they start.
        logs: a new folder for what they write.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload(list(LIBRARIES))
    processes = [
        context.Process(target=_be, args=(words, dict(environment), folder, logs / str(number)))
        for number, environment in enumerate(environments)
    ]
    for process in processes:
        process.start()
    return Started(words, processes, logs)


def _be(words: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
    """Be a process that runs a module."""
    for stream, kind in ((sys.stdout, "out"), (sys.stderr, "err")):
        with Path(f"{log}.{kind}").open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    # Collections would look through a million objects of libraries each time.
    gc.freeze()
    # As in a fresh process: else two runs would agree on numbers that nobody has seeded.
    random.seed()
    numpy.random.seed()
    added = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(folder), *filter(None, added)]
    sys.argv[1:] = words[1:]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
