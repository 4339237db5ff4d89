"""Build the labeler's page: a shell of Gradio's around the board, which is plain JavaScript.

The board draws itself and talks to ``/api/desk`` by ``fetch``: drafts and judgments wait in no
queue, and nothing that a reload resets is part of them. No text of a prompt or a model goes through
Gradio at all, so none can be read as HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

LABEL_HEAD = """\
<link rel="stylesheet" href="/static/board.css">
<script type="module" src="/static/board.js"></script>
"""
"""What the mount of the page adds to its head: our own files, nothing inline, no other host's."""

OPENING = """\
<div id="board"><p class="opening">Opening your desk. This page needs JavaScript.</p></div>
"""

START = """\
const begin = () => window.steerlineBoard.start(element);
if (window.steerlineBoard) begin();
else window.addEventListener("steerline-board", begin, { once: true });
"""
"""The module may come before the component or after it."""


def build_label_page() -> gr.Blocks:
    """Return the page for ``/label``; mount it with ``head=LABEL_HEAD``."""
    # Not at the top: the head is wanted while Gradio is not there yet.
    import gradio as gr

    with gr.Blocks(title="Label · Steerline", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(html_template=OPENING, js_on_load=START, apply_default_css=False, padding=False)
    return page
