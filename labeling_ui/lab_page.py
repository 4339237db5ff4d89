"""Build the lead's page: what they see of the labels, and what they decide.

Model text is shown by ``lab_cards`` or in text boxes, never as Markdown, whose remote images a
browser would fetch.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from labeling_ui.lab_access import Lab
from labeling_ui.lab_agreement import build_agreement
from labeling_ui.lab_data import build_data
from labeling_ui.lab_explorer import build_explorer
from labeling_ui.lab_inbox import build_inbox
from labeling_ui.lab_instructions import build_instructions
from labeling_ui.lab_overview import build_overview
from labeling_ui.lab_people import build_people
from labeling_ui.lab_reviews import build_reviews
from pipeline.store.accounts import Accounts
from pipeline.store.store import LabelStore

HEADER = """\
<header>
<p>Steerline</p>
<h1>Lab</h1>
<nav aria-label="Pages">{pages}</nav>
<form method="post" action="/signout"><button>Sign out</button></form>
</header>
"""
LINKS = (("/label/", "Label"), ("/lab/compare/", "Compare"), ("/password", "Password"))
HEADER_STYLE = """
header { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: baseline; }
p { margin: 0; color: var(--color-accent); font-weight: 700; letter-spacing: -0.02em; }
h1 { margin: 0; font-size: 1.25rem; font-weight: 700; color: var(--body-text-color); }
nav { display: flex; gap: 1rem; margin-inline-start: auto; }
a, button { color: var(--body-text-color); font: inherit; text-decoration: underline; }
button { background: none; border: 0; padding: 0; cursor: pointer; }
@media (max-width: 30rem) { p { display: none; } }
"""
TABS = {
    "Overview": build_overview,
    "Agreement": build_agreement,
    "Labelers": build_people,
    "Inbox": build_inbox,
    "Reviews": build_reviews,
    "Explorer": build_explorer,
    "Instructions": build_instructions,
    "Data": build_data,
}


def build_lab_page(store: LabelStore, accounts: Accounts, run_dir: Path | None = None) -> gr.Blocks:
    """Return the page for ``/lab``.

    Args:
        store: the open store.
        accounts: who may sign in.
        run_dir: the run's folder, in which a removed labeler's work is looked for.
    """
    lab = Lab.over(store, accounts, run_dir)
    with gr.Blocks(title="Lab · Steerline", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(html_template=_header(run_dir), css_template=HEADER_STYLE, js_on_load=None)
        with gr.Tabs(overflow_behavior="wrap"):
            for number, (title, build) in enumerate(TABS.items()):
                with gr.Tab(title, id=title.lower()) as tab:
                    fill = build(lab)
                # A tab is read anew each time it is opened; the first one is open at the start.
                lab.bind(tab.select, fill.work, fill.inputs, fill.outputs)
                if number == 0:
                    lab.bind(page.load, fill.work, fill.inputs, fill.outputs)
    return page


def _header(run_dir: Path | None) -> str:
    """Return the page's head; without a run there is nothing to compare."""
    links = [link for link in LINKS if run_dir is not None or link[1] != "Compare"]
    return HEADER.format(pages=" ".join(f'<a href="{to}">{name}</a>' for to, name in links))
