"""Render the app's own pages: Jinja2 with autoescape; they need no script."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2
from starlette.responses import HTMLResponse

FOLDER = Path(__file__).parent


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, /, *, status: int = 200, **values: object) -> HTMLResponse:
    """Return a page made of a template and its values."""
    html = _templates().get_template(template).render(status=status, **values)
    return HTMLResponse(html, status)
