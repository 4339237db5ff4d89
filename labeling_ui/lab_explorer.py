"""Look through the judgments: filters, pages, and one judgment with all its revisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from labeling_ui.lab_access import Lab
from labeling_ui.lab_cards import Card, card, prompt_cards, text_cards
from labeling_ui.lab_fill import Fill, choices
from labeling_ui.lab_filters import Filter, Shown, show_page
from labeling_ui.lab_parsing import show_order
from labeling_ui.lab_sheet import table
from labeling_ui.lab_tables import JUDGMENTS, TIME, judgment_rows, ticked
from pipeline.errors import StoreError
from pipeline.store.accounts import Account
from pipeline.store.inbox import letter
from pipeline.store.judged import Judged
from pipeline.store.questions import OUTPUT_FLAGS, PROMPT_FLAGS
from pipeline.store.rows import PURPOSES
from pipeline.store.schema import JudgmentRow
from pipeline.store.values import SPLITS


def build_explorer(lab: Lab) -> Fill:
    """Return what the explorer shows."""
    with gr.Row():
        labelers = gr.Dropdown(label="Labelers", choices=[], multiselect=True)
        splits = gr.Dropdown(label="Splits", choices=list(SPLITS), multiselect=True)
        kinds = gr.Dropdown(label="Kinds", choices=["ranking", "comparison"], multiselect=True)
        purposes = gr.Dropdown(label="Purposes", choices=list(PURPOSES), multiselect=True)
    with gr.Row():
        flags = gr.Dropdown(
            label="Ticked",
            choices=[one.name for one in (*OUTPUT_FLAGS, *PROMPT_FLAGS)],
            multiselect=True,
        )
        stages = gr.Dropdown(label="Stages of the outputs", choices=[], multiselect=True)
        text = gr.Textbox(label="Words in the prompt, an output or the comment")
        disputed = gr.Checkbox(label="Only what waits in the inbox")
    with gr.Row():
        number = gr.Number(1, label="Page", minimum=1, precision=0)
        found = gr.Textbox(label="Found", interactive=False)
    listed = table("Judgments, the newest first", JUDGMENTS)
    chosen = gr.Dropdown(label="Judgment", choices=[])
    cards = text_cards()
    wanted = (labelers, splits, kinds, purposes, flags, stages, text, disputed)
    outputs = (number, found, listed, chosen, cards)

    def explore(lead: Account, page: float | None, *values: Any) -> tuple[Any, ...]:
        del lead
        *narrow, only_disputed = values
        tasks = {one.task for one in _inbox(lab)} if only_disputed else None
        shown = show_page(lab.records.judged(), _filter(narrow, tasks), int(page or 1))
        return (
            shown.number,
            f"{shown.total} judgments, page {shown.number} of {shown.pages}",
            judgment_rows(shown.numbered),
            choices(_to_choose(shown)),
            [],
        )

    def open_page(lead: Account, *values: Any) -> tuple[Any, ...]:
        judged = lab.records.judged()
        names = sorted({item.labeler for item in judged})
        origins = {stage for item in judged for output in item.outputs for stage in output.stages}
        return (
            gr.update(choices=names),
            gr.update(choices=sorted(origins)),
            *explore(lead, *values),
        )

    def from_the_start(lead: Account, *values: Any) -> tuple[Any, ...]:
        return explore(lead, 1, *values)

    def show_judgment(lead: Account, assignment: int | None) -> list[Card]:
        del lead
        revisions = lab.oversight.judged(JudgmentRow.assignment_id == assignment, newest=False)
        if not revisions:
            raise StoreError("A judgment must be chosen, got none. Choose one from the list.")
        return judgment_cards(revisions)

    for one in wanted:
        event = one.submit if one is text else one.input
        lab.bind(event, from_the_start, wanted, outputs)
    lab.bind(number.submit, explore, (number, *wanted), outputs)
    lab.bind(chosen.input, show_judgment, (chosen,), (cards,))
    return Fill(open_page, (labelers, stages, *outputs), (number, *wanted))


def judgment_cards(revisions: Sequence[Judged]) -> list[Card]:
    """Return a judgment's prompt, its revisions, the newest first, and its outputs."""
    newest = revisions[-1]
    notes = [
        f"Task {newest.task}, {newest.kind} for {newest.purpose}, split {newest.split}",
        f"{newest.labeler}, group {newest.group}",
        "Their work is removed from training." if newest.excluded else "",
    ]
    outputs = [
        card(
            f"Output {letter(index)}",
            output.text,
            [f"From {', '.join(output.stages)}", _place(newest, index)],
        )
        for index, output in enumerate(newest.outputs)
    ]
    said = [card(f"Revision {item.revision}", describe(item)) for item in reversed(revisions)]
    return [*prompt_cards(newest.prompt, notes), *said, *outputs]


def describe(item: Judged) -> str:
    """Return everything that one revision says, in lines."""
    lines = [f"{item.created.strftime(TIME)} UTC: {show_order(item.ranks)}"]
    if item.ratings is not None:
        lines.append("Ratings: " + ", ".join(_lettered(map(str, item.ratings))))
    ticks = [ticked(flags) for flags in item.flags]
    if any(ticks):
        lines.append("Flags: " + "; ".join(_lettered(tick or "none" for tick in ticks)))
    if item.prompt_flags:
        lines.append(f"Prompt: {ticked(item.prompt_flags)}")
    if item.none_acceptable:
        lines.append("None is acceptable.")
    if item.comment:
        lines.append(f"Note: {item.comment}")
    if item.active_seconds is not None:
        lines.append(f"Took {item.active_seconds:.0f} s.")
    page = "not on the page" if item.interface is None else f"page {item.interface}"
    rules = "" if item.instructions is None else f", instructions {item.instructions}"
    return "\n".join([*lines, f"Made {page}{rules}."])


def _place(item: Judged, index: int) -> str:
    if item.presented is None:
        return "Shown in an unknown place"
    return f"Shown in place {item.presented.index(index) + 1}"


def _lettered(values: Any) -> list[str]:
    return [f"{letter(index)} {value}" for index, value in enumerate(values)]


def _filter(values: Sequence[Any], tasks: set[str] | None) -> Filter:
    """Return the filter that the controls say; Gradio has None for an empty choice."""
    *chosen, text = values
    labelers, splits, kinds, purposes, flags, stages = (tuple(value or ()) for value in chosen)
    return Filter(labelers, splits, kinds, purposes, flags, stages, text or "", tasks)


def _inbox(lab: Lab) -> Sequence[Any]:
    return lab.oversight.inbox(judged=lab.records.judged())


def _to_choose(shown: Shown) -> list[tuple[str, int]]:
    return [(f"{number}: {item.labeler}", item.assignment) for number, item in shown.numbered]
