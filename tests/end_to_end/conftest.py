from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
        return [sys.executable, "-m", "stages.cli", *(str(word) for word in words)]

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self._run(self.command(*arguments))

    def launch(
        self, stage: str, *overrides: str, processes: int
    ) -> subprocess.CompletedProcess[str]:
        """Run a stage under ``accelerate launch`` on the CPU."""
        module, _, variant = stage.partition("@")
        script = [f"stages.{module}", str(MICRO), f"run_dir={self.run_dir}", *overrides]
        script += ["--variant", stage] if variant else []
        return self._run(
            [
                *(sys.executable, "-m", "accelerate.commands.launch"),
                *("--config_file", str(ROOT / "configs/accelerate/cpu-2.yaml")),
                *("--num_processes", str(processes), "--main_process_port", "0", "-m"),
                *script,
            ]
        )

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
    done = line.run("run")
    assert done.returncode == 0, done.stderr
    return line
