"""Show how the labeling goes: what was done when, what waits, what was skipped and reported."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import gradio as gr
import pandas as pd

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_cards import prompt_cards, text_cards
from labeling_ui.lab_fill import Fill, choices, table
from labeling_ui.lab_tables import QUEUE, TIME, queue_rows
from pipeline.labeling_quality import count_by_time
from pipeline.store.accounts import Account
from pipeline.store.questions import SKIP_REASONS
from pipeline.store.standing import Report

HOURS = 48


def build_overview(lab: Lab) -> Fill:
    """Return what the overview shows."""
    with gr.Row():
        days = gr.BarPlot(
            x="day", y="done", color="labeler", title="Done a day (UTC)", height=280, buttons=[]
        )
        hours = gr.BarPlot(
            x="hour",
            y="done",
            title=f"Done an hour, the last {HOURS} (UTC)",
            height=280,
            buttons=[],
        )
    queue = table("Tasks", QUEUE)
    skips = table("Skipped tasks", ("Reason", "Tasks"))
    report = gr.Dropdown(label="Reported prompts", choices=[])
    prompt = text_cards()
    resolve = gr.Button("The report is dealt with")

    def overview(lead: Account) -> tuple[Any, ...]:
        del lead
        times = _times(lab)
        recent = max(times)[0] if times else None
        labels = {question.name: question.label for question in SKIP_REASONS}
        return (
            _frame(count_by_time(times, "day"), "day"),
            _frame(
                count_by_time(((time, "all") for time, _ in _since(times, recent)), "hour"), "hour"
            ),
            queue_rows(lab.oversight.queue()),
            [[labels.get(name, name), count] for name, count in lab.oversight.skips().items()],
            choices(_waiting(lab)),
            [],
        )

    def show_report(lead: Account, chosen: int | None) -> list[Any]:
        del lead
        found = next((one for one in lab.oversight.reports() if one.id == chosen), None)
        if found is None:
            return []
        when = found.created.strftime(TIME)
        return prompt_cards(found.prompt, (f"{found.labeler}, {when}: {found.reason}",))

    def resolve_report(lead: Account, chosen: int | None) -> tuple[Any, ...]:
        if chosen is not None:
            lab.oversight.resolve_report(chosen)
            tell("The report is marked as dealt with.")
        return overview(lead)

    outputs = (days, hours, queue, skips, report, prompt)
    lab.bind(report.input, show_report, (report,), (prompt,))
    lab.bind(resolve.click, resolve_report, (report,), outputs)
    return Fill(overview, outputs)


def _times(lab: Lab) -> list[tuple[datetime, str]]:
    judged = [(item.submitted, item.labeler) for item in lab.records.judged()]
    return judged + [(answer.created, answer.labeler) for answer in lab.oversight.answers()]


def _since(
    times: Iterable[tuple[datetime, str]], newest: datetime | None
) -> list[tuple[datetime, str]]:
    return [
        (time, name)
        for time, name in times
        if newest is not None and (newest - time).total_seconds() < HOURS * 3600
    ]


def _frame(counts: list[tuple[datetime, str, int]], unit: str) -> pd.DataFrame | None:
    return pd.DataFrame(counts, columns=[unit, "labeler", "done"]) if counts else None


def _waiting(lab: Lab) -> list[tuple[str, int]]:
    return [(_describe(one), one.id) for one in lab.oversight.reports() if not one.resolved]


def _describe(report: Report) -> str:
    return f"{report.labeler}: {' '.join(report.reason.split())[:80]}"
