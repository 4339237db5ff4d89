"""Run a configuration end to end and sum it up: ``python -m stages.demo CONFIG``.

Prints the stages as they run, the table of ``steerline status``, where the report is, and as its
last line one JSON object with the figures that the line is judged by; rates are fractions of 1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from pipeline.config.run import RunConfig, load_config
from pipeline.runs import Manifest
from stages import status
from stages.cli import run_line
from stages.entry import Parser, add_run_arguments, run_command

MODELS = {"base": "pretrain", "sft": "sft", "ppo": "ppo", "ppo@no_ptx": "ppo@no_ptx"}
FIGURES = ("instruction_following", "fewshot", "perplexity")


def summarize(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Collect the run's figures from what its stages wrote."""
    summary = json.loads((config.run_dir / "evaluate" / "summary.json").read_text(encoding="utf-8"))
    reward, label = (_metrics(config, stage) for stage in ("reward", "label"))
    return {
        "report": str((config.run_dir / "report" / "report.html").resolve()),
        "seconds": round(seconds, 1),
        **{
            name: {figure: summary[stage].get(figure) for figure in FIGURES}
            for name, stage in MODELS.items()
            if stage in summary
        },
        "reward_accuracy": reward.get("accuracy"),
        "gold_accuracy": label.get("gold_accuracy"),
        "labeler_agreement": label.get("labeler_agreement"),
        "ppo_win_rate": summary.get("ppo", {}).get("win_rate_vs_sft"),
    }


def _metrics(config: RunConfig, stage: str) -> dict[str, Any]:
    manifest = Manifest.read(config.run_dir / stage)
    return dict(manifest.metrics) if manifest else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo as a command."""

    def work() -> None:
        parser = Parser("python -m stages.demo", "Run a configuration end to end and sum it up.")
        add_run_arguments(parser)
        given = parser.parse_intermixed_args(argv)
        config = load_config(given.config, given.overrides)
        started = time.monotonic()
        run_line(config, force=given.force)
        seconds = time.monotonic() - started
        status.show(config)
        figures = summarize(config, seconds)
        print(f"The report: {figures['report']}")
        print(json.dumps(figures))

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
