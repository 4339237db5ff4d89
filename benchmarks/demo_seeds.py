"""Run the tiny world's line over several seeds and put intervals on its effects.

``python -m benchmarks.demo_seeds CONFIG [--seeds 100 101 102] [--folder runs/seeds]`` runs every
seed whole (a finished one is skipped), prints each, and as its last line one JSON object.

Intervals are percentiles of a bootstrap with seeds resampled on top of held-out prompts or few-shot
questions; stages are paired on the same ones.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config.run import load_config
from pipeline.records import read_jsonl
from stages.cli import run_line
from stages.demo import summarize
from stages.entry import run_command

TUNED = ("ppo", "ppo@no_ptx")
STAGES = ("pretrain", "sft", *TUNED)
RESAMPLES = 4000


class Resampled(NamedTuple):
    """Figures of one seed that are resampled together: a value a row, the same rows in each."""

    rows: int
    columns: dict[str, np.ndarray]


def followed_prompts(run_dir: Path) -> Resampled:
    """Return what happened at each held-out prompt, all stages on the same prompts."""
    folder = run_dir / "evaluate" / "completions"
    answers = {
        stage: {row["prompt_id"]: row for _, row in read_jsonl(folder / f"{stage}.jsonl")}
        for stage in STAGES
    }
    prompts = sorted(set.intersection(*(set(rows) for rows in answers.values())))
    followed = {
        s: np.array([float(rows[p]["followed"]) for p in prompts]) for s, rows in answers.items()
    }
    utility = {s: np.array([rows[p]["utility"] for p in prompts]) for s, rows in answers.items()}
    columns = {f"followed/{stage}": values for stage, values in followed.items()}
    for stage in TUNED:
        difference = utility[stage] - utility["sft"]
        columns[f"gain over sft/{stage}"] = followed[stage] - followed["sft"]
        columns[f"win rate against sft/{stage}"] = (difference > 0) + 0.5 * (difference == 0)
    return Resampled(len(prompts), columns)


def few_shot_documents(run_dir: Path) -> Resampled:
    """Return whether each few-shot question was answered right, all stages on the same ones."""
    folder = run_dir / "evaluate" / "documents"
    right = {
        stage: {
            (row["task"], row["shots"], row["doc"]): float(row["correct"])
            for _, row in read_jsonl(folder / f"{stage}.jsonl")
        }
        for stage in STAGES
    }
    keys = sorted(set.intersection(*(set(rows) for rows in right.values())))
    columns = {
        f"few-shot/{stage}": np.array([rows[key] for key in keys]) for stage, rows in right.items()
    }
    for stage in TUNED:
        columns[f"few-shot tax/{stage}"] = (
            columns[f"few-shot/{stage}"] - columns["few-shot/pretrain"]
        )
    return Resampled(len(keys), columns)


def intervals(seeds: Sequence[Resampled], rng_seed: int = 0) -> dict[str, list[float]]:
    """Return mean, low and high of every column: seeds resampled, and rows within each."""
    rng = np.random.default_rng(rng_seed)
    names = list(seeds[0].columns)
    # One matrix a seed, so that a resample takes all columns at the same rows.
    tables = [np.stack([seed.columns[name] for name in names]) for seed in seeds]
    draws = np.empty((RESAMPLES, len(names)))
    for draw in draws:
        chosen = rng.integers(len(seeds), size=len(seeds))
        means = [
            tables[seed][:, rng.integers(seeds[seed].rows, size=seeds[seed].rows)].mean(axis=1)
            for seed in chosen
        ]
        draw[:] = np.mean(means, axis=0)
    centre = np.mean([table.mean(axis=1) for table in tables], axis=0)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return {name: [float(centre[i]), float(low[i]), float(high[i])] for i, name in enumerate(names)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_seeds", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--folder", type=Path, default=Path("runs/seeds"))
    given = parser.parse_intermixed_args(argv)

    def work() -> None:
        prompts, documents, figures = [], [], []
        for seed in given.seeds:
            where = [f"seed={seed}", f"run_dir={given.folder / str(seed)}"]
            config = load_config(given.config, [*given.overrides, *where])
            started = time.monotonic()
            run_line(config, force=False)
            run = summarize(config, time.monotonic() - started)
            report = json.loads(
                Path(run["report"]).with_suffix(".json").read_text(encoding="utf-8")
            )
            figures.append({"seed": seed, **run, "recovered_by_ptx": report["recovered_by_ptx"]})
            prompts.append(followed_prompts(config.run_dir))
            documents.append(few_shot_documents(config.run_dir))
            print(json.dumps(figures[-1]), flush=True)
        bounds = intervals(prompts) | intervals(documents)
        for name, (mean, low, high) in bounds.items():
            print(f"{name:34} {mean:7.3f}  [{low:7.3f}, {high:7.3f}]")
        print(json.dumps({"seeds": given.seeds, "intervals": bounds, "runs": figures}))

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
