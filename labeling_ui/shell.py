"""Build a page that is a shell of Gradio's around plain JavaScript of our own.

What such a page shows it draws itself and asks for by ``fetch``: nothing waits in Gradio's queue,
nothing that a reload resets is part of it, and no text of a prompt or a model goes through Gradio
at all, so none can be read as HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

OPENING = """\
<div id="{name}"><p class="opening">{opening} This page needs JavaScript.</p></div>
"""
START = """\
const begin = () => window.{start}.start(element);
if (window.{start}) begin();
else window.addEventListener("steerline-{name}", begin, {{ once: true }});
"""
"""The module may come before the component or after it."""


@dataclass(frozen=True)
class Shell:
    """A page of our own files.

    Attributes:
        name: of its files, its element, and the event that says that its module is there.
        title: of its window.
        opening: what stands there until it is drawn.
        folder: of its files below ``/static/``, with a slash at the end; empty for none.
    """

    name: str
    title: str
    opening: str
    folder: str = ""

    @property
    def head(self) -> str:
        """Return what the mount adds to its head: our own files, nothing inline."""
        place = f"/static/{self.folder}{self.name}"
        return (
            '<link rel="stylesheet" href="/static/sheet.css">\n'
            f'<link rel="stylesheet" href="{place}.css">\n'
            f'<script type="module" src="{place}.js"></script>\n'
        )

    def build(self) -> gr.Blocks:
        """Return the page; mount it with its ``head``."""
        # Not at the top: the head is wanted while Gradio is not there yet.
        import gradio as gr

        opening = OPENING.format(name=self.name, opening=self.opening)
        start = START.format(name=self.name, start=f"steerline{self.name.capitalize()}")
        title = f"{self.title} · Steerline"
        with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
            gr.HTML(html_template=opening, js_on_load=start, apply_default_css=False, padding=False)
        return page


BOARD = Shell("board", "Label", "Opening your desk.")
COMPARISON = Shell("compare", "Compare", "Opening the comparison.", folder="compare/")
