"""Run the tiny world's line over several seeds and put intervals on its effects.

``python -m benchmarks.demo_seeds CONFIG [--seeds 100 101 102] [--folder runs/seeds]`` runs every
seed whole (a finished one is skipped), prints each, and as its last line one JSON object.

Intervals are percentiles of a bootstrap with seeds resampled on top of held-out prompts; stages are
paired on the same prompts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.run import load_config
from stages.cli import run_line
from stages.demo import summarize
from stages.entry import run_command

STAGES = ("pretrain", "sft", "ppo", "ppo@no_ptx")
RESAMPLES = 4000


def read_answers(run_dir: Path, stage: str) -> dict[str, dict[str, Any]]:
    """Return a stage's judged answers by prompt id."""
    path = run_dir / "evaluate" / "completions" / f"{stage}.jsonl"
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["prompt_id"]: row for row in rows}


def paired_columns(run_dir: Path) -> dict[str, np.ndarray]:
    """Return one seed's figures a held-out prompt, all stages on the same prompts in one order."""
    answers = {stage: read_answers(run_dir, stage) for stage in STAGES}
    prompts = sorted(set.intersection(*(set(rows) for rows in answers.values())))
    columns = {
        f"followed/{stage}": np.array([float(rows[p]["followed"]) for p in prompts])
        for stage, rows in answers.items()
    }
    utility = {s: np.array([rows[p]["utility"] for p in prompts]) for s, rows in answers.items()}
    for stage in ("ppo", "ppo@no_ptx"):
        difference = utility[stage] - utility["sft"]
        columns[f"win_rate/{stage}"] = (difference > 0) + 0.5 * (difference == 0)
        columns[f"gain/{stage}"] = columns[f"followed/{stage}"] - columns["followed/sft"]
    return columns


def intervals(seeds: Sequence[dict[str, np.ndarray]], rng_seed: int = 0) -> dict[str, list[float]]:
    """Return mean, low and high of every column: seeds resampled, and prompts within each."""
    rng = np.random.default_rng(rng_seed)
    draws: dict[str, list[float]] = {name: [] for name in seeds[0]}
    for _ in range(RESAMPLES):
        parts: dict[str, list[float]] = {name: [] for name in draws}
        for chosen in rng.integers(len(seeds), size=len(seeds)):
            columns = seeds[chosen]
            rows = rng.integers(len(columns["followed/sft"]), size=len(columns["followed/sft"]))
            for name, column in columns.items():
                parts[name].append(float(column[rows].mean()))
        for name, means in parts.items():
            draws[name].append(float(np.mean(means)))
    return {
        name: [
            float(np.mean([columns[name].mean() for columns in seeds])),
            *(float(bound) for bound in np.percentile(values, [2.5, 97.5])),
        ]
        for name, values in draws.items()
    }


def recovered(base: float, without: float, with_ptx: float) -> float | None:
    """Return the share of the loss without ptx that ptx brings back; None where nothing fell."""
    fell = base - without
    return (with_ptx - without) / fell if fell > 0 else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_seeds", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    given = parser.parse_intermixed_args(argv)

    def work() -> None:
        columns, figures = [], []
        for seed in given.seeds:
            where = [f"seed={seed}", f"run_dir={given.folder / str(seed)}"]
            config = load_config(given.config, [*given.overrides, *where])
            started = time.monotonic()
            run_line(config, force=False)
            figures.append({"seed": seed, **summarize(config, time.monotonic() - started)})
            columns.append(paired_columns(config.run_dir))
            print(json.dumps(figures[-1]))
        bounds = intervals(columns)
        for name, (mean, low, high) in bounds.items():
            print(f"{name:28} {mean:7.3f}  [{low:7.3f}, {high:7.3f}]")
        print(json.dumps({"seeds": given.seeds, "intervals": bounds, "runs": figures}))

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
