"""Repeat a short PPO over several seeds on a finished run, and count those that diverge.

``python -m benchmarks.ppo_seeds RUN_DIR [key=value ...] [--seeds 0..9] [--modes full hydra trunk]``
takes PPO's start, its reward model and the ``ppo`` section from a finished run of the tiny world,
which it only reads, and trains in a folder of its own for each mode and seed (a finished one is
skipped). It prints a table, and as its last line one JSON object.

    full    all weights, the value model apart
    hydra   adapters on one frozen backbone, values by an adapter of their own
    trunk   the same, values by a head on the policy

The world, its prompts and texts stay those of the run, whatever the seed. All modes are scored by
one reward model, the run's own, or the one of ``--reward``. Where that was trained by adapters on
PPO's start, ``hydra`` shares them; any other is loaded beside, and values start at 0. Figures are
those of the last evaluation, on the same held-out prompts for every seed. A training has diverged
if one of its numbers was not finite, its KL ends above ``--most-kl``, or its mean score ends below
that of its start.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts import write_text
from pipeline.config.ppo import PpoSection
from pipeline.config.pretrain import PretrainSection
from pipeline.config.run import RunConfig, load_config, resolve
from pipeline.config.source import Source
from pipeline.data import read_prompts
from pipeline.data.documents import read_documents
from pipeline.errors import ConfigError, DivergedError
from pipeline.records import read_log, write_jsonl
from pipeline.runs import Manifest, model_of
from stages.entry import run_command
from stages.ppo import run as run_ppo

ADAPTERS: Mapping[str, Any] = {"learning_rate": 1.0e-3, "value_learning_rate": 1.0e-3}
MODES: Mapping[str, Mapping[str, Any]] = {
    "full": {"hydra": None},
    "hydra": {"hydra": {"lora": {"rank": 16}, "value": "adapter"}, **ADAPTERS},
    "trunk": {"hydra": {"lora": {"rank": 16}, "value": "trunk"}, **ADAPTERS},
}
"""Adapters take a larger rate than all weights."""
FIGURES = ("scores", "kl", "win_rate")
HELD_OUT = Source(path="tiny:prompts", split="validation", limit=200)
EPISODES = 2560
"""Twenty iterations of configs/tiny.yaml."""
MOST_KL = 20.0
"""Nats a completion: some ten times what PPO on the tiny world ends at."""
TOKENS_A_DOCUMENT = 12
"""At least; texts are written out for the pretraining term, and enough of them."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Hold how one training ended.

    Attributes:
        diverged: why it counts as diverged; empty where it does not.
        figures: mean score, KL and win rate on held-out prompts, and the start's score; empty where
            a number was not finite.
        seconds: of the whole stage, loading included; 0 where it did not end.
    """

    mode: str
    seed: int
    diverged: str
    figures: Mapping[str, float]
    seconds: float


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Return the seeds of words such as ``0..9`` and ``12``.

    Raises:
        ConfigError: if a word is neither.
    """
    seeds: list[int] = []
    for word in words:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", word)
        if found is None:
            raise ConfigError(f"--seeds must be numbers or ranges, got {word!r}. Write 0..9.")
        first, last = int(found[1]), int(found[2] or found[1])
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def prepare(run_dir: Path, folder: Path, reward: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Write out what all trainings read, and return their configuration without mode and seed.

    Raises:
        SteerlineError: if the run has not finished what PPO needs.
    """
    config = load_config(run_dir / "ppo" / "config.yaml", [f"run_dir={run_dir}", *overrides])
    section = config.section("ppo", PpoSection)
    for parent in (section.init, reward):
        model_of(config, parent)
    folder.mkdir(parents=True, exist_ok=True)
    prompts, held_out = folder / "prompts.jsonl", folder / "held_out.jsonl"
    _write_prompts(prompts, config, section.prompts)
    _write_prompts(held_out, config, [HELD_OUT])
    given = {word.partition("=")[0] for word in overrides}
    episodes = section.episodes if "ppo.episodes" in given else EPISODES
    tree = yaml.safe_load((run_dir / "ppo" / "config.yaml").read_text(encoding="utf-8"))
    kept = {key: value for key, value in tree.items() if key.partition("@")[0] not in ("ppo",)}
    ppo = {
        **dataclasses.asdict(section),
        "prompts": [str(prompts)],
        "reward": reward,
        "rewards": [],
        "episodes": episodes,
        "eval_prompts": [str(held_out)],
        "eval_every": episodes // section.rollout_batch_size,
        "select": "last",
        "patience": 0,
        "ptx_sources": _write_texts(folder, config, section, episodes),
    }
    return {**kept, "ppo": ppo}


def _write_prompts(path: Path, config: RunConfig, sources: Sequence[Source]) -> None:
    rows = read_prompts(sources, config.seed)
    write_jsonl(path, [{"prompt": prompt.messages} for prompt in rows])


def _write_texts(
    folder: Path, config: RunConfig, section: PpoSection, episodes: int
) -> list[dict[str, Any]]:
    """Write as much of each pretraining text as a training can read, and return the sources."""
    if not section.ptx_coef:
        return []
    sources = section.ptx_sources or config.section("pretrain", PretrainSection).sources
    tokens = episodes * section.ptx_ratio * (section.ptx_length or 1024)
    count = int(tokens / TOKENS_A_DOCUMENT) + 1
    written = []
    for i, source in enumerate(sources):
        path = folder / f"text-{i}.jsonl"
        limited = dataclasses.replace(source, limit=min(count, source.limit or count))
        write_jsonl(path, [{"text": text} for text in read_documents(limited, config.seed)])
        written.append({"path": str(path), "weight": source.weight})
    return written


def train(
    tree: Mapping[str, Any], run_dir: Path, folder: Path, mode: str, seed: int, most_kl: float
) -> Outcome:
    """Train once, in a folder whose parent stages are links to the run's, and judge the end."""
    own = folder / f"{mode}-{seed}"
    section = {**tree["ppo"], **MODES[mode]}
    config = resolve({**tree, "run_dir": str(own), "seed": seed, "ppo": section})
    own.mkdir(exist_ok=True)
    for parent in (section["init"], section["reward"]):
        if not (own / parent).exists():
            (own / parent).symlink_to((run_dir / parent).resolve(), target_is_directory=True)
    try:
        run_ppo(config, "ppo")
    except DivergedError as error:
        return Outcome(mode, seed, f"not finite: {error}", {}, 0.0)
    last = list(read_log(own / "ppo" / "metrics.jsonl"))[-1]
    figures = {name: float(last[f"eval/{name}"]) for name in (*FIGURES, "start_scores")}
    manifest = Manifest.read(own / "ppo")
    assert manifest is not None, "a stage that returns is complete"
    return Outcome(mode, seed, judge(figures, most_kl), figures, manifest.seconds)


def judge(figures: Mapping[str, float], most_kl: float) -> str:
    """Say why a training that ended counts as diverged, in a word or two; empty if it does not."""
    if figures["kl"] > most_kl:
        return f"KL above {most_kl:g}"
    return "score below the start's" if figures["scores"] < figures["start_scores"] else ""


def summarize(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """Return each mode's means, standard deviations over seeds, and how many diverged.

    Trainings that ended count, those that diverged too; numbers that are not finite have no mean.
    """
    by_mode: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_mode.setdefault(outcome.mode, []).append(outcome)
    summary: dict[str, dict[str, Any]] = {}
    for mode, rows in by_mode.items():
        ended = [row.figures for row in rows if row.figures]
        summary[mode] = {
            "seeds": len(rows),
            "diverged": sum(bool(row.diverged) for row in rows),
            "seconds": statistics.fmean([row.seconds for row in rows if row.figures] or [0.0]),
        }
        for name in (*FIGURES, "start_scores") if ended else ():
            values = [figures[name] for figures in ended]
            spread = statistics.stdev(values) if len(values) > 1 else None
            summary[mode][name] = {"mean": statistics.fmean(values), "sd": spread}
    return summary


def write_row(outcome: Outcome) -> str:
    """Return an outcome as a line of the table."""
    found = [outcome.figures.get(name) for name in ("start_scores", *FIGURES)]
    cells = ["      -" if value is None else f"{value:7.3f}" for value in found]
    start = f"{outcome.mode:6} {outcome.seed:4}"
    return f"{start}  {'  '.join(cells)}  {outcome.seconds:7.1f}  {outcome.diverged}".rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ppo_seeds", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--seeds", nargs="+", default=["0..9"])
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--reward", default="reward", metavar="STAGE")
    parser.add_argument("--most-kl", type=float, default=MOST_KL)
    parser.add_argument("--folder", type=Path, default=Path("runs/ppo-seeds"))
    given = parser.parse_intermixed_args(argv)

    def work() -> None:
        seeds = parse_seeds(given.seeds)
        tree = prepare(given.run_dir, given.folder, given.reward, given.overrides)
        write_text(given.folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False))
        print("mode   seed    start    score       KL      win  seconds", flush=True)
        outcomes = []
        for mode in given.modes:
            for seed in seeds:
                outcomes.append(train(tree, given.run_dir, given.folder, mode, seed, given.most_kl))
                print(write_row(outcomes[-1]), flush=True)
        summary = summarize(outcomes)
        for mode, figures in summary.items():
            means = [
                f"{name} {figures[name]['mean']:.3f}"
                + ("" if figures[name]["sd"] is None else f" (sd {figures[name]['sd']:.3f})")
                for name in FIGURES
                if name in figures
            ]
            ended = f"{figures['diverged']} of {figures['seeds']} diverged"
            print(f"{mode}: {', '.join([*means, ended])}; {figures['seconds']:.1f} s a seed")
        runs = [dataclasses.asdict(outcome) for outcome in outcomes]
        print(json.dumps({"most_kl": given.most_kl, "modes": summary, "runs": runs}))

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
