"""Show how the labeling goes: what was done when, what waits, what was skipped and reported."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import gradio as gr
import pandas as pd

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_cards import prompt_cards, text_cards
from labeling_ui.lab_fill import Fill, choices
from labeling_ui.lab_sheet import table
from labeling_ui.lab_tables import QUEUE, TIME, queue_rows
from pipeline.labeling_quality import count_by_time
from pipeline.store.accounts import Account
from pipeline.store.questions import SKIP_REASONS
from pipeline.store.standing import Report

DAYS, HOURS = 21, 24
PLOT: dict[str, Any] = {"height": 280, "buttons": [], "x_label_angle": -90, "y_lim": [0, None]}


def build_overview(lab: Lab) -> Fill:
    """Return what the overview shows."""
    with gr.Row():
        days = gr.BarPlot(
            x="day", y="done", color="labeler", title=f"Done a day, the last {DAYS} (UTC)", **PLOT
        )
        hours = gr.BarPlot(
            x="hour", y="done", title=f"Done an hour, the last {HOURS} (UTC)", **PLOT
        )
    queue = table("Tasks", QUEUE)
    skips = table("Skipped tasks", ("Reason", "Tasks"))
    report = gr.Dropdown(label="Reported prompts", choices=[])
    prompt = text_cards()
    resolve = gr.Button("The report is dealt with")

    def overview(lead: Account) -> tuple[Any, ...]:
        del lead
        times = _times(lab)
        labels = {question.name: question.label for question in SKIP_REASONS}
        return (
            plot_counts(count_by_time(times, "day"), "day"),
            plot_counts(count_by_time(((time, "all") for time, _ in times), "hour"), "hour"),
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


def plot_counts(counts: Sequence[tuple[datetime, str, int]], unit: Literal["day", "hour"]) -> Any:
    """Return an update of a plot: a bar for each of the last days or hours, also for empty ones.

    Times are words by then: a browser would show them in its own time zone.
    """
    if not counts:
        return gr.update(value=None)
    step, length = (timedelta(days=1), DAYS) if unit == "day" else (timedelta(hours=1), HOURS)
    newest, name = counts[-1][0], counts[-1][1]
    first = max(counts[0][0], newest - (length - 1) * step)
    times = [first + number * step for number in range((newest - first) // step + 1)]
    labels = [time.strftime("%d %b" if unit == "day" else "%H:00") for time in times]
    rows = [(label, name, 0) for label in labels]
    rows += [(labels[times.index(time)], who, done) for time, who, done in counts if time >= first]
    return gr.update(value=pd.DataFrame(rows, columns=[unit, "labeler", "done"]), sort=labels)


def _waiting(lab: Lab) -> list[tuple[str, int]]:
    return [(_describe(one), one.id) for one in lab.oversight.reports() if not one.resolved]


def _describe(report: Report) -> str:
    return f"{report.labeler}: {' '.join(report.reason.split())[:80]}"
