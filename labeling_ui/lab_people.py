"""Show who labels and how well; admit, invite, disable and remove labelers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import gradio as gr

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_fill import Fill, choices
from labeling_ui.lab_sheet import table
from labeling_ui.lab_tables import (
    AFFECTED,
    PEOPLE,
    QUALITY,
    SCREENINGS,
    affected_rows,
    people_rows,
    quality_rows,
    screening_rows,
)
from pipeline.agreement import Bootstrap
from pipeline.errors import StoreError
from pipeline.labeling_quality import (
    LabelerQuality,
    Screening,
    measure_labelers,
    measure_screening,
)
from pipeline.provenance import find_affected
from pipeline.store.account_rows import ROLES, Role
from pipeline.store.accounts import Account
from pipeline.store.values import GROUPS, TASK_KINDS, Group

# Sixteen intervals a labeler: fewer resamples keep the page quick.
BOOTSTRAP = Bootstrap(samples=400)


def build_people(lab: Lab) -> Fill:
    """Return what the page of labelers shows."""
    labelers = table("Labelers", PEOPLE)
    figures = table("Quality, with 95 % intervals over prompts", QUALITY)
    screenings = table("Screening: 75 % on flags, 75 % on rankings, 6 of 7 on texts", SCREENINGS)
    chosen = gr.Dropdown(label="Labeler", choices=[])
    outputs = (labelers, figures, screenings, chosen)

    def people(lead: Account, name: str | None = None) -> tuple[Any, ...]:
        del lead
        found = lab.oversight.people()
        names = [person.name for person in found]
        quality = _quality(lab)
        return (
            people_rows(found, {one.name: one for one in lab.accounts.list()}, quality),
            quality_rows(quality.values()),
            screening_rows(_screening(lab)),
            choices([(one, one) for one in names], name if name in names else None),
        )

    actions = _Actions(lab, people, chosen, outputs)
    with gr.Row():
        actions.button("Admit", lambda _, name: lab.oversight.admit(name))
        actions.button(
            "Back to the screening", lambda _, name: lab.oversight.admit(name, admitted=False)
        )
        actions.button("Disable the account", lambda _, name: lab.accounts.disable(name))
        actions.button("Enable the account", lambda _, name: lab.accounts.enable(name))
    with gr.Row():
        kinds = gr.CheckboxGroup(list(TASK_KINDS), label="Kinds of task, none for all")
        actions.button(
            "Save the kinds",
            lambda _, name, picked: lab.oversight.set_kinds(name, picked or None),
            (kinds,),
        )
    _build_removal(lab, actions)
    _build_invitation(lab)
    return Fill(people, outputs)


class _Actions:
    """Make buttons that do something about the chosen labeler and show the tables anew."""

    def __init__(self, lab: Lab, people: Any, chosen: gr.Dropdown, outputs: Sequence[Any]) -> None:
        self._lab, self._people = lab, people
        self.chosen, self._outputs = chosen, outputs

    def button(self, label: str, act: Any, inputs: Sequence[Any] = ()) -> None:
        def work(lead: Account, name: str | None, *values: Any) -> tuple[Any, ...]:
            act(lead, check_chosen(name), *values)
            tell(f"{label}: {name}")
            return cast("tuple[Any, ...]", self._people(lead, name))

        event = gr.Button(label, size="sm").click
        self._lab.bind(event, work, (self.chosen, *inputs), self._outputs)


def _build_removal(lab: Lab, actions: _Actions) -> None:
    with gr.Accordion("Remove a labeler's work from training", open=False):
        reason = gr.Textbox(label="Reason")
        with gr.Row():
            actions.button(
                "Remove from training",
                lambda lead, name, why: lab.oversight.exclude(name, why, lead.name),
                (reason,),
            )
            actions.button("Restore", lambda _, name: lab.oversight.restore(name))
            look = gr.Button("Show what their work went into", size="sm")
        affected = table("Made from their work", AFFECTED)

        def show(lead: Account, name: str | None) -> list[Any]:
            del lead
            if lab.run_dir is None:
                raise StoreError("There is no run folder to look in. Serve with a configuration.")
            snapshots = lab.oversight.snapshots()
            return affected_rows(find_affected(lab.run_dir, check_chosen(name), snapshots))

        lab.bind(look.click, show, (actions.chosen,), (affected,))


def _build_invitation(lab: Lab) -> None:
    with gr.Accordion("Invite somebody", open=False):
        with gr.Row():
            role = gr.Radio(list(ROLES), value="labeler", label="Role")
            group = gr.Radio(list(GROUPS), value="train", label="Group")
            admitted = gr.Checkbox(label="Admitted without a screening")
            hours = gr.Number(72, label="Hours until it expires", minimum=1, precision=0)
        make = gr.Button("Make an invitation")
        link = gr.Textbox(label="Link, shown once; it makes one account", interactive=False)

        def invite(
            lead: Account, chosen: str, of: str, free: bool, time: float | None
        ) -> dict[str, Any]:
            del lead
            token = lab.accounts.invite(
                cast("Role", chosen), cast("Group", of), bool(free), float(time or 0)
            )
            made: dict[str, Any] = gr.update(value=f"/invite/{token}")
            return made

        made = lab.bind(make.click, invite, (role, group, admitted, hours), (link,))
        # The server need not know by what name people reach it: the lead's browser does.
        made.success(
            None, link, link, js="(path) => path.startsWith('/') ? location.origin + path : path"
        )


def check_chosen(name: str | None) -> str:
    """Return the chosen labeler.

    Raises:
        StoreError: if none is chosen.
    """
    if not name:
        raise StoreError("A labeler must be chosen, got none. Choose one from the list.")
    return name


def _quality(lab: Lab) -> dict[str, LabelerQuality]:
    found = measure_labelers(lab.records.judged(), lab.oversight.gold(), BOOTSTRAP)
    return {one.labeler: one for one in found}


def _screening(lab: Lab) -> dict[str, Screening]:
    scores: dict[str, list[int]] = defaultdict(list)
    for answer in lab.oversight.answers():
        if answer.purpose == "screening" and answer.review and answer.review.score is not None:
            scores[answer.labeler].append(answer.review.score)
    return measure_screening(lab.records.judged(), lab.oversight.gold(), scores)
