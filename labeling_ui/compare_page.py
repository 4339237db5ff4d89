"""Build the page of comparisons: a shell of Gradio's around plain JavaScript, as the board's is.

Answers stream from ``/api/lab/compare`` by ``fetch``, a token as it comes, and stop when the page
stops them; curves come in parts. Neither waits in Gradio's queue, and no text of a prompt or a
model goes through Gradio at all, so none can be read as HTML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

COMPARE_HEAD = """\
<link rel="stylesheet" href="/static/compare/compare.css">
<script type="module" src="/static/compare/compare.js"></script>
"""
"""What the mount of the page adds to its head: our own files, nothing inline, no other host's."""

OPENING = """\
<div id="compare"><p class="opening">Opening the comparison. This page needs JavaScript.</p></div>
"""

START = """\
const begin = () => window.steerlineCompare.start(element);
if (window.steerlineCompare) begin();
else window.addEventListener("steerline-compare", begin, { once: true });
"""
"""The module may come before the component or after it."""


def build_compare_page() -> gr.Blocks:
    """Return the page for ``/lab/compare``; mount it with ``head=COMPARE_HEAD``."""
    # Not at the top: the head is wanted while Gradio is not there yet.
    import gradio as gr

    with gr.Blocks(title="Compare · Steerline", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(html_template=OPENING, js_on_load=START, apply_default_css=False, padding=False)
    return page
