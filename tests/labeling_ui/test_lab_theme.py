from __future__ import annotations

import re

import pytest

from labeling_ui.lab_theme import LAB_HEAD, PALETTE, lab_theme
from labeling_ui.rendering import FOLDER

# What is read on what, and how much contrast it needs (WCAG 2.2, 1.4.3 and 1.4.11).
PAIRS = [
    ("body_text_color", "body_background_fill", 4.5),
    ("body_text_color", "background_fill_secondary", 4.5),
    ("body_text_color_subdued", "block_background_fill", 4.5),
    ("block_title_text_color", "block_background_fill", 4.5),
    ("link_text_color", "body_background_fill", 4.5),
    ("link_text_color_hover", "body_background_fill", 4.5),
    ("input_placeholder_color", "input_background_fill", 4.5),
    ("checkbox_label_text_color_selected", "checkbox_label_background_fill_selected", 4.5),
    ("button_primary_text_color", "button_primary_background_fill", 4.5),
    ("button_primary_text_color", "button_primary_background_fill_hover", 4.5),
    ("button_secondary_text_color", "button_secondary_background_fill_hover", 4.5),
    ("input_border_color", "block_background_fill", 3),
    ("checkbox_border_color", "checkbox_background_color", 3),
    ("button_secondary_border_color", "body_background_fill", 3),
]


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), PAIRS)
def test_colours_have_the_contrast_that_people_need(
    front: str, back: str, least: float, scheme: int
) -> None:
    darker, lighter = sorted(luminance(PALETTE[name][scheme]) for name in (front, back))
    assert (lighter + 0.05) / (darker + 0.05) >= least


def test_the_theme_takes_the_palette_and_asks_nobody_for_fonts() -> None:
    css = lab_theme()._get_theme_css()
    light, dark = css.split(":root.dark")
    for name, (one, other) in PALETTE.items():
        variable = name.replace("_", "-")
        assert f"--{variable}: {one};" in light
        assert f"--{variable}: {other};" in dark
    assert "--color-accent: #0a5f63;" in light
    assert "@font-face" not in css
    assert lab_theme()._stylesheets == []


def test_the_style_sheet_is_served() -> None:
    path = re.search(r'href="/(static/[^"]+)"', LAB_HEAD)
    assert path is not None
    assert (FOLDER / path[1]).is_file()
