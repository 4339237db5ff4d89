"""Show how far labelers agree: on orders, ratings and flags, and on stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from labeling_ui.lab_access import Lab
from labeling_ui.lab_fill import Fill
from labeling_ui.lab_sheet import table
from labeling_ui.lab_tables import (
    FLAGS,
    MEASURES,
    WINS,
    agreement_rows,
    flag_rows,
    win_rows,
)
from pipeline.labeling_quality import measure_flags, win_rates
from pipeline.store.accounts import Account
from pipeline.store.judged import Judged
from pipeline.store.questions import OUTPUT_FLAGS
from pipeline.store.values import GROUPS, SPLITS

PEOPLE = ("people", "simulated labelers")


def build_agreement(lab: Lab) -> Fill:
    """Return what the agreement page shows."""
    with gr.Row():
        split = gr.CheckboxGroup(list(SPLITS), label="Splits, none for all")
        group = gr.CheckboxGroup(list(GROUPS), label="Groups of labelers, none for all")
        who = gr.CheckboxGroup(list(PEOPLE), value=[PEOPLE[0]], label="Who, none for all")
    measures = table("Agreement, with 95 % intervals over prompts", MEASURES)
    flags = table("Yes/no questions, with 95 % intervals over prompts", FLAGS)
    wins = table("Which stage was preferred, a tie is half", WINS)

    def measure(
        lead: Account, splits: Sequence[str], groups: Sequence[str], people: Sequence[str]
    ) -> tuple[Any, ...]:
        del lead
        judged = [
            item
            for item in lab.records.counted()
            if item.split in (splits or SPLITS)
            and item.group in (groups or GROUPS)
            and _kind(item) in (people or PEOPLE)
        ]
        return (
            agreement_rows(judged),
            flag_rows(measure_flags(judged, [question.name for question in OUTPUT_FLAGS])),
            win_rows(win_rates(judged)),
        )

    chosen, outputs = (split, group, who), (measures, flags, wins)
    for one in chosen:
        lab.bind(one.input, measure, chosen, outputs)
    return Fill(measure, outputs, chosen)


def _kind(item: Judged) -> str:
    return PEOPLE[1] if item.simulated else PEOPLE[0]
