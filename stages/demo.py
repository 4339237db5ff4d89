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


def summarize(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Return the headline that the report stage made of the run, where it is, and the time."""
    manifest = Manifest.read(config.run_dir / "report")
    assert manifest is not None, "the report is the last stage of a line"
    page = (config.run_dir / "report" / "report.html").resolve()
    return {"report": str(page), "seconds": round(seconds, 1), **manifest.metrics}


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
