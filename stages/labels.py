"""Work on a run's label store from the command line.

Labels go out and come in, labelers' agreement is measured, a labeler's work is followed to what was
made from it, and reward models choose what people should rank next. Torch is loaded by ``score``
alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.agreement import (
    Bootstrap,
    Estimate,
    labeler_agreement,
    mean_kendall_tau,
    pairwise_agreement,
    rating_alpha,
)
from pipeline.config.label import LabelSection
from pipeline.config.reward import RewardSection
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError, RunError, StoreError
from pipeline.labeling import store_url
from pipeline.provenance import find_affected
from pipeline.runs import Manifest, model_of
from pipeline.selection import choose, disagreement
from pipeline.store import SIMULATED_PREFIX, LabelStore
from pipeline.store.oversight import Oversight
from pipeline.store.values import SPLITS, Split
from stages.entry import CONFIG_HELP, OVERRIDE_HELP, Parser

TRACE_WIDTH = 160
"""Columns in a pipe, so that no reason is folded."""


def main(argv: Sequence[str]) -> None:
    """Run ``steerline labels``.

    Raises:
        SteerlineError: for wrong arguments, an unusable store, or a malformed file.
    """
    parser = Parser(
        "steerline labels",
        "Export or import judgments, measure agreement, choose what to rank, trace a labeler.",
    )
    parser.add_argument(
        "action",
        choices=("export", "import", "agreement", "score", "select", "trace"),
        help="write every judgment as JSONL; add those of a JSONL; measure agreement; let reward "
        "models score the completions; make ranking tasks where they disagree; list what was made "
        "from a labeler's work",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    parser.add_argument("--file", type=Path, help="the JSONL; by default <run_dir>/labels.jsonl")
    parser.add_argument(
        "--demonstrations",
        metavar="FILE",
        type=Path,
        help="export: write the answers that leads accepted, and judgments only with --file",
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="import: of rows that name none (train); agreement: only it"
    )
    parser.add_argument(
        "--models", default="reward", help="score, select: reward stages, with commas (reward)"
    )
    parser.add_argument("--tasks", type=int, default=100, help="select: how many (100)")
    parser.add_argument(
        "--random", type=float, default=0.3, help="select: share drawn at random (0.3)"
    )
    parser.add_argument("--labeler", metavar="NAME", help="trace: whose work")
    given = parser.parse_intermixed_args(argv)
    config = load_config(given.config, given.overrides)
    file = given.file or config.run_dir / "labels.jsonl"
    if given.demonstrations is not None and given.action != "export":
        raise ConfigError("--demonstrations must come with export. Leave it out.")
    if given.action == "export":
        _export(config, given.file if given.demonstrations else file, given.demonstrations)
    elif given.action == "import":
        _import(config, file, given.split or "train")
    elif given.action == "agreement":
        _measure(config, given.split)
    elif given.action == "score":
        _score(config, given.models.split(","), given.split)
    elif given.action == "trace":
        _trace(config, given.labeler)
    else:
        _select(config, given.models.split(","), given.tasks, given.random)


def _export(config: RunConfig, file: Path | None, demonstrations: Path | None) -> None:
    for option, path in (("--file", file), ("--demonstrations", demonstrations)):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(
                f"{option} must lie in a folder that exists, got {str(path)!r}. Make it."
            )
    with LabelStore.open(store_url(config), create=False) as store:
        oversight = Oversight(store)
        if file is not None:
            count = oversight.export_judgments(file)
            sys.stdout.write(f"{count} judgments written to {file}\n")
        if demonstrations is not None:
            count = oversight.export_demonstrations(demonstrations)
            sys.stdout.write(f"{count} demonstrations written to {demonstrations}\n")


def _import(config: RunConfig, file: Path, split: Split) -> None:
    with LabelStore.open(store_url(config)) as store:
        count = store.import_jsonl(file, split=split)
    known = f"{count.duplicates} were here already"
    sys.stdout.write(f"{count.added} judgments added from {file}, {known}\n")


def _measure(config: RunConfig, split: Split | None) -> None:
    with LabelStore.open(store_url(config), create=False) as store:
        rankings = store.rankings(split, adjudicated=False)
    bootstrap = Bootstrap(seed=config.seed)
    rows = {
        "pairwise agreement, a tie is half": pairwise_agreement(
            rankings, ties=True, bootstrap=bootstrap
        ),
        "pairwise agreement, ties left out": pairwise_agreement(
            rankings, ties=False, bootstrap=bootstrap
        ),
        "Kendall's tau-b": mean_kendall_tau(rankings, bootstrap=bootstrap),
        "Krippendorff's alpha of the ratings": rating_alpha(rankings, bootstrap=bootstrap),
    }
    by_labeler = labeler_agreement(rankings, ties=True, bootstrap=bootstrap)
    rows |= {f"{name} with the others": estimate for name, estimate in by_labeler.items()}
    simulated = sum((item.labeler or "").startswith(SIMULATED_PREFIX) for item in rankings)
    title = f"{len(rankings)} judgments, {simulated} of them by simulated labelers"
    width = None if sys.stdout.isatty() else 100
    Console(width=width, file=sys.stdout).print(_tabulate(title, rows))


def _score(config: RunConfig, stages: Sequence[str], split: Split | None) -> None:
    models = {stage: _reward_model(config, stage) for stage in stages}
    scoring = importlib.import_module("pipeline.scoring")
    with LabelStore.open(store_url(config), create=False) as store:
        for stage, (checkpoint, model) in models.items():
            count = scoring.score_store(store, stage, checkpoint, model, split)
            left = f", {count.too_long} too long for its context" if count.too_long else ""
            sys.stdout.write(f"{stage}: {count.scored} completions scored{left}\n")


def _select(config: RunConfig, stages: Sequence[str], tasks: int, random_share: float) -> None:
    if tasks < 1:
        raise ConfigError(f"--tasks must be 1 or more, got {tasks}. Ask for some.")
    if not 0 <= random_share <= 1:
        raise ConfigError(f"--random must lie in [0, 1], got {random_share}. Use 0.3.")
    checkpoints = [_reward_model(config, stage)[0] for stage in stages]
    section = config.section("label", LabelSection)
    with LabelStore.open(store_url(config), create=False) as store:
        found = store.candidates(checkpoints, "train")
        scored = [item for item in found if len(item.scores) == len(checkpoints)]
        if not scored:
            raise RunError(
                f"No scored prompt waits to become a task ({len(found)} unscored). Run "
                "'steerline sample CONFIG' for new prompts and 'steerline labels score CONFIG'."
            )
        uncertainty = [disagreement(np.array(list(item.scores.values()))) for item in scored]
        chosen = choose(uncertainty, tasks, random_share, config.seed)
        made = store.create_selected_tasks(
            (
                (
                    scored[item.index],
                    {
                        "policy": item.policy,
                        "propensity": item.propensity,
                        "disagreement": uncertainty[item.index],
                        "checkpoints": checkpoints,
                    },
                )
                for item in chosen
            ),
            section.overlap,
        )
    drawn = sum(item.policy == "random" for item in chosen)
    mean = sum(uncertainty) / len(uncertainty)
    best = sum(uncertainty[item.index] for item in chosen) / len(chosen)
    sys.stdout.write(
        f"{made} tasks of {len(scored)} scored prompts, {drawn} of them at random; "
        f"mean disagreement {best:.4f}, of all {mean:.4f}\n"
    )


def _trace(config: RunConfig, labeler: str | None) -> None:
    if labeler is None:
        raise ConfigError("trace must come with --labeler. Name whose work to follow.")
    with LabelStore.open(store_url(config), create=False) as store:
        oversight = Oversight(store)
        if labeler not in {person.name for person in oversight.people()}:
            raise StoreError(f"No labeler {labeler!r} in the label store. Check the name.")
        snapshots = oversight.snapshots()
    affected = find_affected(config.run_dir, labeler, snapshots)
    if not affected:
        sys.stdout.write(f"Nothing in {config.run_dir} was made from {labeler}'s work\n")
        return
    table = Table(title=Text(f"made from {labeler}'s work"), title_justify="left")
    for column in ("stage", "status", "sure", "why", "model", "checkpoints"):
        table.add_column(column)
    for one in affected:
        sure = "yes" if one.certain else "may be"
        steps = ", ".join(map(str, one.checkpoints))
        cells = (one.stage, one.status, sure, one.reason, one.model_hash[:12], steps)
        table.add_row(*map(Text, cells))
    width = None if sys.stdout.isatty() else TRACE_WIDTH
    Console(width=width, file=sys.stdout).print(table)


def _reward_model(config: RunConfig, stage: str) -> tuple[str, Path]:
    """Return the hash of a finished reward stage's weights, and its model's folder."""
    config.section(stage, RewardSection)
    model = model_of(config, stage)
    manifest = Manifest.read(config.run_dir / stage)
    assert manifest is not None, f"{stage} has a model and no manifest"
    return manifest.model_hash, model


def _tabulate(title: str, rows: dict[str, Estimate | None]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("measure")
    for column in ("value", f"{Bootstrap().level:.0%} interval", "prompts", "count"):
        table.add_column(column, justify="right")
    for name, estimate in rows.items():
        if estimate is None:
            table.add_row(Text(name), "undefined")
            continue
        table.add_row(
            Text(name),
            f"{estimate.value:.3f}",
            f"{estimate.low:.3f} to {estimate.high:.3f}",
            str(estimate.prompts),
            str(estimate.count),
        )
    return table
