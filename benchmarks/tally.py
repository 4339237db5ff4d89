"""Tell of a long benchmark's measurements as they are done, and keep them on disk.

A benchmark that is stopped, or that fails near its end, has not worked for nothing: what was
measured stands in the file, each measurement and what the finished ones come to.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.side_by_side import Figures, note
from pipeline.artifacts import write_json


class Tally:
    """Count measurements of a plan.

    Args:
        path: the file, overwritten with every measurement.
        planned: how many there will be.
    """

    def __init__(self, path: Path, planned: int) -> None:
        self.path, self.planned = path, planned
        self.kept: Figures = {"measured": [], "so_far": {}}
        self._begin = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        note(f"{planned} measurements; those that are done are kept in {path}")

    def add(self, what: str, figures: Figures) -> None:
        """Note one measurement.

        Args:
            what: its name.
            figures: what it gave, for the file.
        """
        minutes = (time.monotonic() - self._begin) / 60
        measured = self.kept["measured"]
        measured.append({"what": what, "minutes": round(minutes, 2), **figures})
        write_json(self.path, self.kept)
        note(f"{len(measured)} of {self.planned} after {minutes:.1f} minutes: {what}")

    def sum_up(self, so_far: Figures) -> None:
        """Keep what the measurements come to until now."""
        self.kept["so_far"] = so_far
        write_json(self.path, self.kept)
