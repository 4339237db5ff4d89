"""Take pictures of pages for people to look at: ``build/screenshots``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
BLANK = 5000
"""A picture of nothing has fewer bytes."""


@dataclass(frozen=True)
class Window:
    """A page in a window of some kind, such as ``phone-dark``."""

    page: Page
    kind: str

    def picture(self, name: str, *, whole: bool = False) -> None:
        """Keep how the window looks, or the whole page, under a name."""
        path = PICTURES / f"{name}-{self.kind}.png"
        self.page.screenshot(path=path, full_page=whole)
        assert path.stat().st_size > BLANK
