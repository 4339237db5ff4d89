"""Dress Gradio's parts on the lead's page in the palette of the other pages.

Gradio's own theme misses the contrast that people need (WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for
text, 3 to 1 for the borders of what can be pressed) at its orange buttons, selected tabs, quiet
text and fields' borders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

LAB_HEAD = '<link rel="stylesheet" href="/static/lab/lab.css">'
"""What the mount of the page adds to its head."""
LAB_SCRIPT = b'<script type="module" src="/static/lab/lab.js"></script>'
"""What runs before Gradio's own scripts."""

FONT, MONO = ("ui-sans-serif", "system-ui", "sans-serif"), ("ui-monospace", "monospace")
PAPER, SURFACE, SUNKEN = ("#fbfaf8", "#14161a"), ("#ffffff", "#1c1f25"), ("#f3f1ec", "#101216")
LINE, EDGE = ("#e3dfd7", "#2e323a"), ("#85817a", "#7a808c")
INK, QUIET = ("#1d2126", "#e7e8eb"), ("#5a5e66", "#a5aab4")
ACCENT, ON_ACCENT = ("#0a5f63", "#7dd0ca"), ("#ffffff", "#06201f")
DEEPER, SOFT = ("#084c4f", "#a3e0db"), ("#e4f1f0", "#17302f")

PALETTE = {
    "body_background_fill": PAPER,
    "body_text_color": INK,
    "body_text_color_subdued": QUIET,
    "background_fill_primary": SURFACE,
    "background_fill_secondary": SUNKEN,
    "border_color_primary": LINE,
    "border_color_accent": ACCENT,
    "color_accent_soft": SOFT,
    "link_text_color": ACCENT,
    "link_text_color_active": ACCENT,
    "link_text_color_hover": DEEPER,
    "link_text_color_visited": ACCENT,
    "block_background_fill": SURFACE,
    "block_border_color": LINE,
    "block_info_text_color": QUIET,
    "block_label_background_fill": SURFACE,
    "block_label_text_color": QUIET,
    "block_title_text_color": QUIET,
    "checkbox_background_color": SURFACE,
    "checkbox_background_color_selected": ACCENT,
    "checkbox_border_color": EDGE,
    "checkbox_border_color_focus": ACCENT,
    "checkbox_border_color_hover": EDGE,
    "checkbox_border_color_selected": ACCENT,
    "checkbox_label_background_fill": SURFACE,
    "checkbox_label_background_fill_hover": SUNKEN,
    "checkbox_label_background_fill_selected": SOFT,
    "checkbox_label_text_color": INK,
    "checkbox_label_text_color_selected": INK,
    "input_background_fill": SURFACE,
    "input_border_color": EDGE,
    "input_border_color_focus": ACCENT,
    "input_placeholder_color": QUIET,
    "loader_color": ACCENT,
    "button_primary_background_fill": ACCENT,
    "button_primary_background_fill_hover": DEEPER,
    "button_primary_text_color": ON_ACCENT,
    "button_secondary_background_fill": SUNKEN,
    "button_secondary_background_fill_hover": LINE,
    "button_secondary_border_color": EDGE,
    "button_secondary_border_color_hover": EDGE,
    "button_secondary_text_color": INK,
}


def lab_theme() -> gr.themes.Default:
    """Return the theme of ``/lab``."""
    # Not at the top: it takes seconds, and the app answers before.
    import gradio as gr

    theme = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="stone", font=FONT, font_mono=MONO
    )
    values = {name: light for name, (light, _) in PALETTE.items()}
    values |= {f"{name}_dark": dark for name, (_, dark) in PALETTE.items()}
    made: gr.themes.Default = theme.set(
        # Gradio has one accent for light and dark; the style sheet says the dark one.
        color_accent=ACCENT[0],
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_border_color=ACCENT[0],
        button_primary_border_color_dark=ACCENT[1],
        **values,
    )
    return made
