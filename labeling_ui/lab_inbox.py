"""Show disputed tasks with the reasons, and take the lead's decisions on them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_cards import Card, card, prompt_cards, text_cards
from labeling_ui.lab_fill import Fill, choices
from labeling_ui.lab_parsing import read_order, show_order
from labeling_ui.lab_tables import TIME, excerpt, ticked
from pipeline.errors import StoreError
from pipeline.store.accounts import Account
from pipeline.store.inbox import Dispute, Scores, letter
from pipeline.store.judged import Judged, Output

VERDICTS = {
    "The judgments stand": "kept",
    "My order stands in their place": "replaced",
    "None is trained on": "dropped",
}
SHOWN = 200


def build_inbox(lab: Lab) -> Fill:
    """Return what the inbox shows."""
    waiting = gr.Textbox(label="Waiting", interactive=False)
    chosen = gr.Dropdown(label="Task", choices=[])
    reasons = gr.Textbox(label="Why it is here", interactive=False, lines=2)
    cards = text_cards()
    with gr.Row():
        verdict = gr.Radio(list(VERDICTS), label="Decision")
        order = gr.Textbox(label="My order, best first", placeholder="B > A = C")
    comment = gr.Textbox(label="Reason of the decision")
    decide = gr.Button("Decide", variant="primary")
    outputs = (waiting, chosen, reasons, cards, verdict, order, comment)

    def show_list(lead: Account) -> tuple[Any, ...]:
        del lead
        disputes = _disputes(lab)
        listed = [(_describe(one), one.task) for one in disputes[:SHOWN]]
        more = f", the first {SHOWN} are listed" if len(disputes) > SHOWN else ""
        first = disputes[0] if disputes else None
        return (
            f"{len(disputes)} tasks{more}",
            choices(listed, first.task if first else None),
            *_show(first),
        )

    def show_task(lead: Account, task: str | None) -> tuple[Any, ...]:
        del lead
        return _show(_find(lab, task))

    def take_decision(
        lead: Account, task: str | None, said: str | None, typed: str, why: str
    ) -> tuple[Any, ...]:
        found = _find(lab, task)
        if said is None:
            raise StoreError("A decision must be chosen, got none. Choose one of the three.")
        word = VERDICTS[said]
        ranks = read_order(typed, found.outputs) if word == "replaced" else None
        lab.oversight.adjudicate(found.task, lead.id, word, ranks, why)
        tell("The decision is taken.")
        return show_list(lead)

    lab.bind(chosen.input, show_task, (chosen,), outputs[2:])
    lab.bind(decide.click, take_decision, (chosen, verdict, order, comment), outputs)
    return Fill(show_list, outputs)


def dispute_cards(dispute: Dispute) -> list[Card]:
    """Return the prompt and the outputs of a disputed task, with what was said of each."""
    first = dispute.judgments[0]
    cards = prompt_cards(first.prompt, [f"Task {dispute.task}, split {first.split}"])
    cards += [
        card(
            f"Output {letter(index)}",
            output.text,
            [
                _origin(output, dispute.scores),
                *(_verdict(item, index) for item in dispute.judgments),
            ],
        )
        for index, output in enumerate(dispute.outputs)
    ]
    return cards + [
        card(f"{item.labeler} on {item.created.strftime(TIME)}", _summary(item))
        for item in dispute.judgments
    ]


def _origin(output: Output, scores: Scores | None) -> str:
    text = f"From {', '.join(output.stages)}"
    if scores is not None and output.id in scores.scores:
        text += f"; {scores.stage} scores it {scores.scores[output.id]:+.2f}"
    return text


def _verdict(item: Judged, index: int) -> str:
    parts = [f"{item.labeler}: rank {item.ranks[index]}"]
    if item.ratings is not None:
        parts.append(f"rating {item.ratings[index]}")
    if item.flags[index]:
        parts.append(ticked(item.flags[index]))
    return ", ".join(parts)


def _summary(item: Judged) -> str:
    lines = [show_order(item.ranks)]
    if item.none_acceptable:
        lines.append("None is acceptable.")
    if item.prompt_flags:
        lines.append(f"Prompt: {ticked(item.prompt_flags)}")
    if item.comment:
        lines.append(item.comment)
    return "\n".join(lines)


def _disputes(lab: Lab) -> list[Dispute]:
    return lab.oversight.inbox(judged=lab.records.judged())


def _show(dispute: Dispute | None) -> tuple[Any, ...]:
    """Return the reasons and cards of a task, and an empty form."""
    if dispute is None:
        return "", [], None, "", ""
    return "\n".join(dispute.reasons), dispute_cards(dispute), None, "", ""


def _find(lab: Lab, task: str | None) -> Dispute:
    found = next((one for one in _disputes(lab) if one.task == task), None)
    if found is None:
        raise StoreError("The task must wait in the inbox, but it does not. Open the inbox again.")
    return found


def _describe(dispute: Dispute) -> str:
    prompt = excerpt(dispute.judgments[0].prompt.messages[-1]["content"], 60)
    return f"{prompt} ({dispute.reasons[0]})"
