"""Show prompts and outputs as text, whatever they hold.

The page's script sets them with ``textContent``: nothing in them is read as HTML, becomes a link or
is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from pipeline.records import Prompt

Card = dict[str, Any]

TEMPLATE = '<div class="cards"></div>'
STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 0.75rem; color: var(--body-text-color); }
article { display: flex; flex-direction: column; gap: 0.5rem; padding: 0.75rem;
  border: 1px solid var(--border-color-primary); border-radius: 0.5rem;
  background: var(--block-background-fill); }
article:first-child { grid-column: 1 / -1; }
h2 { margin: 0; font-size: 0.875rem; font-weight: 600; color: var(--body-text-color); }
pre { margin: 0; max-height: 24rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: plaintext; font: inherit; line-height: 1.5; }
ul { margin: auto 0 0; padding: 0; list-style: none; }
li { color: var(--body-text-color-subdued); font-size: 0.8125rem; unicode-bidi: isolate;
  overflow-wrap: anywhere; }
pre:focus-visible { outline: 2px solid var(--color-accent); }
"""
SCRIPT = """
const make = (tag, text) => {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
};
const draw = () => {
  const root = element.querySelector(".cards");
  if (!root) return;
  const cards = Array.isArray(props.value) ? props.value : [];
  root.replaceChildren(...cards.map((card) => {
    const article = document.createElement("article");
    const text = make("pre", card.text);
    text.tabIndex = 0;
    text.dir = "auto";
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", card.title);
    article.append(make("h2", card.title), text);
    if (card.notes.length > 0) {
      const notes = document.createElement("ul");
      notes.append(...card.notes.map((note) => make("li", note)));
      article.append(notes);
    }
    return article;
  }));
};
draw();
watch("value", draw);
"""


def text_cards() -> gr.HTML:
    """Return a component whose value is a list of cards."""
    return gr.HTML(
        [],
        html_template=TEMPLATE,
        css_template=STYLE,
        js_on_load=SCRIPT,
        apply_default_css=False,
    )


def card(title: str, text: str, notes: Sequence[str] = ()) -> Card:
    """Return one card."""
    return {"title": title, "text": text, "notes": [note for note in notes if note]}


def prompt_cards(prompt: Prompt, notes: Sequence[str] = ()) -> list[Card]:
    """Return a card for each turn of a prompt; the notes stand at the first."""
    return [
        card(f"Prompt, {turn['role']}", turn["content"], notes if number == 0 else ())
        for number, turn in enumerate(prompt.messages)
    ]
