"""Call the lead's page: the handlers of the whole page, as Gradio calls them for a lead."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr

from labeling_ui.lab_page import build_lab_page
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts


class LabPage:
    """The page of ``/lab`` over an open store, in the hands of a lead.

    Args:
        store: the open store.
        lead: who calls.
        run_dir: the run's folder.
    """

    def __init__(self, store: LabelStore, lead: str, run_dir: Path | None = None) -> None:
        async def build() -> gr.Blocks:
            # In a loop, as the app does: outside of one, each of Gradio's locks makes one.
            return build_lab_page(store, Accounts(store), run_dir)

        self._page, self._lead = asyncio.run(build()), lead

    def call(self, name: str, *values: Any) -> Any:
        """Call a handler by its name, and return the values of its components."""
        found = [one.fn for one in self._page.fns.values() if one.fn and one.fn.__name__ == name]
        return found[0](gr.Request(username=self._lead), *values)

    def agreement(self, splits: list[str] | None = None) -> dict[str, list[Any]]:
        """Return the rows that the agreement page shows of people's work, by measure."""
        measures, _, _ = self.call("measure", splits or [], [], ["people"])
        return {row[0]: row[1:] for row in measures}

    def flags(self, splits: list[str] | None = None) -> dict[str, list[Any]]:
        """Return the rows that the agreement page shows of yes/no questions, by question."""
        _, flags, _ = self.call("measure", splits or [], [], ["people"])
        return {row[0]: row[1:] for row in flags}
