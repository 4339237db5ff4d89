"""Take labels out of a run's store, bring them in, and measure how far the labelers agree."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

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
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.labeling import store_url
from pipeline.store import SIMULATED_PREFIX, LabelStore
from pipeline.store.values import SPLITS, Split
from stages.entry import CONFIG_HELP, OVERRIDE_HELP, Parser


def main(argv: Sequence[str]) -> None:
    """Run ``steerline labels``.

    Raises:
        SteerlineError: for wrong arguments, an unusable store, or a malformed file.
    """
    parser = Parser("steerline labels", "Export or import judgments, or measure agreement.")
    parser.add_argument(
        "action",
        choices=("export", "import", "agreement"),
        help="write every judgment as JSONL; add those of a JSONL; measure agreement",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help=CONFIG_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=OVERRIDE_HELP)
    parser.add_argument("--file", type=Path, help="the JSONL; by default <run_dir>/labels.jsonl")
    parser.add_argument(
        "--split", choices=SPLITS, help="import: of rows that name none (train); agreement: only it"
    )
    given = parser.parse_intermixed_args(argv)
    config = load_config(given.config, given.overrides)
    file = given.file or config.run_dir / "labels.jsonl"
    if given.action == "export":
        _export(config, file)
    elif given.action == "import":
        _import(config, file, given.split or "train")
    else:
        _measure(config, given.split)


def _export(config: RunConfig, file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigError(f"--file must lie in a folder that exists, got {str(file)!r}. Make it.")
    with LabelStore.open(store_url(config), create=False) as store:
        count = store.export_jsonl(file)
    sys.stdout.write(f"{count} judgments written to {file}\n")


def _import(config: RunConfig, file: Path, split: Split) -> None:
    with LabelStore.open(store_url(config)) as store:
        count = store.import_jsonl(file, split=split)
    known = f"{count.duplicates} were here already"
    sys.stdout.write(f"{count.added} judgments added from {file}, {known}\n")


def _measure(config: RunConfig, split: Split | None) -> None:
    with LabelStore.open(store_url(config), create=False) as store:
        rankings = store.rankings(split)
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
