"""Take labels out and bring them in; set known answers; name what the labels are now."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gradio as gr

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_cards import Card, card, prompt_cards, text_cards
from labeling_ui.lab_fill import Fill
from labeling_ui.lab_importing import import_file
from labeling_ui.lab_parsing import read_answers, read_order, show_answers, show_order
from labeling_ui.lab_sheet import table
from labeling_ui.lab_tables import TIME
from pipeline.errors import StoreError
from pipeline.records import Prompt
from pipeline.store.accounts import Account
from pipeline.store.decisions import KnownAnswer
from pipeline.store.inbox import letter
from pipeline.store.judged import Output
from pipeline.store.values import SPLITS, Split

LINKS = """\
<nav aria-label="Exports">
<a href="/api/lab/export/rankings" download>All judgments (JSONL)</a>
<a href="/api/lab/export/preferences" download>Preferences for TRL (JSONL)</a>
<a href="/api/lab/export/dataset" download>Data set for Hugging Face datasets (ZIP)</a>
<a href="/api/lab/export/demonstrations" download>Accepted demonstrations (JSONL)</a>
<a href="/api/lab/export/csv" download>Spreadsheet (CSV)</a>
</nav>
"""
LINKS_STYLE = """
nav { display: flex; flex-wrap: wrap; gap: 1rem; }
a { color: var(--body-text-color); text-decoration: underline; }
"""
KNOWN = ("Task", "Purpose", "Order", "By", "When (UTC)")


def build_data(lab: Lab) -> Fill:
    """Return what the page of data shows."""
    gr.HTML(html_template=LINKS, css_template=LINKS_STYLE, js_on_load=None)
    snapshot = gr.Textbox(label="What a reward model would be trained on now", interactive=False)
    _build_import(lab)
    known = table("Known answers of screening and gold tasks", KNOWN)

    def show(lead: Account) -> tuple[Any, ...]:
        del lead
        return _snapshot(lab), _known_rows(lab)

    outputs = (snapshot, known)
    _build_known(lab, show, outputs)
    return Fill(show, outputs)


def _build_import(lab: Lab) -> None:
    with gr.Accordion("Import judgments", open=False):
        file = gr.File(label="Ranking JSONL", file_types=[".jsonl"])
        split = gr.Radio(list(SPLITS), value="train", label="Split of prompts that name none")
        load = gr.Button("Import")
        result = gr.Textbox(label="Result", interactive=False)

        def bring_in(lead: Account, path: str | None, chosen: str) -> tuple[Any, ...]:
            del lead
            if path is None:
                raise StoreError("A file must be chosen, got none. Choose a JSONL.")
            try:
                count = import_file(lab.store, Path(path), Path(path).name, cast("Split", chosen))
            finally:
                # Gradio would keep the upload beside its other files.
                Path(path).unlink(missing_ok=True)
            return None, f"{count.added} judgments added, {count.duplicates} were here already"

        done = lab.bind(load.click, bring_in, (file, split), (file, result))
        # A refused file is gone as well: it must be chosen again once it is mended.
        done.failure(None, None, (file, result), js="() => [null, '']")


def _build_known(lab: Lab, show: Any, shown: tuple[Any, ...]) -> None:
    with gr.Accordion("Set a known answer", open=False):
        with gr.Row():
            task = gr.Textbox(label="Task, as the explorer names it")
            look = gr.Button("Open the task")
        cards = text_cards()
        with gr.Row():
            purpose = gr.Radio(["gold", "screening"], value="gold", label="Purpose")
            order = gr.Textbox(label="Right order, best first", placeholder="B > A = C")
        answers = gr.Textbox(
            label="Settled questions, a line an output", placeholder="A: violent=yes, sexual=no"
        )
        with gr.Row():
            save = gr.Button("Save the known answer", variant="primary")
            release = gr.Button("Make it ordinary work again")

        def open_task(lead: Account, name: str) -> tuple[Any, ...]:
            del lead
            prompt, outputs = lab.oversight.task(name.strip())
            answer = lab.oversight.gold().get(name.strip())
            return (task_cards(prompt, outputs), *_typed(answer, outputs))

        def save_answer(
            lead: Account, name: str, said: str, typed: str, settled: str
        ) -> tuple[Any, ...]:
            _, outputs = lab.oversight.task(name.strip())
            lab.oversight.set_gold(
                name.strip(),
                read_order(typed, outputs),
                read_answers(settled, outputs),
                lead.name,
                said,
            )
            tell("The answer is known. The task's judgments no longer reach training.")
            return cast("tuple[Any, ...]", show(lead))

        def release_answer(lead: Account, name: str) -> tuple[Any, ...]:
            lab.oversight.release_gold(name.strip())
            tell("The task is ordinary work again.")
            return cast("tuple[Any, ...]", show(lead))

        lab.bind(look.click, open_task, (task,), (cards, purpose, order, answers))
        lab.bind(save.click, save_answer, (task, purpose, order, answers), shown)
        lab.bind(release.click, release_answer, (task,), shown)


def task_cards(prompt: Prompt, outputs: tuple[Output, ...]) -> list[Card]:
    """Return a task's prompt and outputs, with where they come from."""
    return [
        *prompt_cards(prompt),
        *(
            card(f"Output {letter(index)}", one.text, [f"From {', '.join(one.stages)}"])
            for index, one in enumerate(outputs)
        ),
    ]


def _typed(answer: KnownAnswer | None, outputs: tuple[Output, ...]) -> tuple[str, str, str]:
    if answer is None:
        return "gold", "", ""
    order = show_order([answer.ranks[output.id] for output in outputs])
    return answer.purpose, order, show_answers(answer.flags, outputs)


def _snapshot(lab: Lab) -> str:
    snapshot = lab.oversight.snapshot()
    names = ", ".join(snapshot.labelers[:20]) or "nobody"
    more = f" and {len(snapshot.labelers) - 20} more" if len(snapshot.labelers) > 20 else ""
    return f"{snapshot.hash}: {snapshot.judgments} judgments by {names}{more}"


def _known_rows(lab: Lab) -> list[list[str]]:
    rows = []
    for answer in lab.oversight.gold().values():
        # Outputs stand in the order of their ids, everywhere that letters name them.
        order = show_order([answer.ranks[id_] for id_ in sorted(answer.ranks)])
        when = answer.created.strftime(TIME)
        rows.append([answer.task, answer.purpose, order, answer.author, when])
    return rows
