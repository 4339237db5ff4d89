from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import Started, start_module

ROOT = Path(__file__).resolve().parents[2]
MICRO = Path(__file__).with_name("micro.yaml")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Line:
    """Start the command line on the micro configuration, and read what it leaves in a folder.

    Attributes:
        run_dir: the run's folder.
        modules: a folder that commands may import from, or None.
    """

    run_dir: Path
    modules: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, **({"PYTHONPATH": str(self.modules)} if self.modules else {})}

    def command(self, *arguments: object) -> list[str]:
        words = [*arguments[:1], MICRO, f"run_dir={self.run_dir}", *arguments[1:]]
        return ["stages.cli", *(str(word) for word in words)]

    def script(self, stage: str, *overrides: str) -> list[str]:
        """Return the module of a stage, and its arguments."""
        module, _, variant = stage.partition("@")
        words = [f"stages.{module}", str(MICRO), f"run_dir={self.run_dir}", *overrides]
        return [*words, "--variant", stage] if variant else words

    def start(self, *arguments: object) -> Started:
        """Start a command in a forked process."""
        return self._fork(self.command(*arguments), [{}])

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command in a forked process."""
        return self.start(*arguments).wait()

    def run_cold(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command in a Python that has imported nothing."""
        return self._run([sys.executable, "-m", *self.command(*arguments)])

    def start_together(self, stage: str, *overrides: str, processes: int) -> Started:
        """Start a stage in forked processes that know of each other as a launcher's do."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        crew = {
            **{"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"},
        }
        ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes))
        places = [{**crew, **rank} for rank in ranks] if processes > 1 else [{}]
        return self._fork(self.script(stage, *overrides), places)

    def launch(self, words: list[str], processes: int) -> subprocess.CompletedProcess[str]:
        """Run a module under ``accelerate launch`` on the CPU."""
        return self._run(
            [
                *(sys.executable, "-m", "accelerate.commands.launch"),
                *("--config_file", str(ROOT / "configs/accelerate/cpu-2.yaml")),
                *("--num_processes", str(processes), "--main_process_port", "0", "-m", *words),
            ]
        )

    def _fork(self, words: list[str], places: list[dict[str, str]]) -> Started:
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        logs = Path(tempfile.mkdtemp(prefix="logs-", dir=self.run_dir.parent))
        environments = [{**self.environment, **place} for place in places]
        return start_module(words, environments, ROOT, logs)

    def _run(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def manifest(self, stage: str) -> dict[str, Any]:
        path = self.run_dir / stage / "manifest.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """Return a stage's logged lines without times, which no two runs share."""
        path = self.run_dir / stage / "metrics.jsonl"
        rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


@pytest.fixture(scope="session")
def make_line():
    return Line


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Return a whole micro run, uninterrupted, in one process."""
    line = Line(tmp_path_factory.mktemp("finished") / "run")
    done = line.run_cold("run")
    assert done.returncode == 0, done.stderr
    return line
