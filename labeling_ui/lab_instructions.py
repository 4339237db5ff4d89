"""Edit and publish what labelers are told; look at versions and what changed between two."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import gradio as gr

from labeling_ui.lab_access import Lab, tell
from labeling_ui.lab_fill import Fill, choices
from labeling_ui.lab_tables import TIME
from pipeline.errors import StoreError
from pipeline.store.accounts import Account
from pipeline.store.oversight import Instructions


def build_instructions(lab: Lab) -> Fill:
    """Return what the page of instructions shows."""
    state = gr.Textbox(label="Newest version", interactive=False)
    text = gr.Textbox(label="Instructions, as plain text", lines=18, max_lines=40)
    publish = gr.Button("Publish a new version", variant="primary")
    with gr.Row():
        before = gr.Dropdown(label="Compare version", choices=[])
        after = gr.Dropdown(label="with version", choices=[])
    changes = gr.Textbox(label="What changed", interactive=False, lines=8, max_lines=40)
    outputs = (state, text, before, after, changes)

    def show(lead: Account) -> tuple[Any, ...]:
        del lead
        versions = lab.oversight.instruction_versions()
        listed = [(str(one.version), one.version) for one in versions]
        old, new = _last_two(versions)
        return (
            _describe(versions),
            versions[-1].text if versions else "",
            choices(listed, old),
            choices(listed, new),
            _compare(versions, old, new),
        )

    def publish_text(lead: Account, written: str) -> tuple[Any, ...]:
        known = lab.oversight.instructions()
        made = lab.oversight.publish_instructions(written, lead.name)
        unchanged = known is not None and known.version == made.version
        tell("The text is unchanged." if unchanged else f"Version {made.version} is published.")
        return show(lead)

    def compare(lead: Account, old: int | None, new: int | None) -> str:
        del lead
        return _compare(lab.oversight.instruction_versions(), old, new)

    lab.bind(publish.click, publish_text, (text,), outputs)
    for one in (before, after):
        lab.bind(one.input, compare, (before, after), (changes,))
    return Fill(show, outputs)


def _describe(versions: Sequence[Instructions]) -> str:
    if not versions:
        return "None was published."
    newest = versions[-1]
    return f"{newest.version}, by {newest.author} on {newest.created.strftime(TIME)} UTC"


def _last_two(versions: Sequence[Instructions]) -> tuple[int | None, int | None]:
    numbers = [one.version for one in versions[-2:]]
    return (None, None) if len(numbers) < 2 else (numbers[0], numbers[1])


def _compare(versions: Sequence[Instructions], old: int | None, new: int | None) -> str:
    if old is None or new is None:
        return ""
    texts = {one.version: one.text.splitlines() for one in versions}
    if old not in texts or new not in texts:
        raise StoreError("Both versions must exist. Choose two from the lists.")
    lines = difflib.unified_diff(
        texts[old], texts[new], f"version {old}", f"version {new}", lineterm=""
    )
    return "\n".join(lines) or "The two are the same."
