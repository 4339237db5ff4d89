"""Move a mouse and a finger as people do: in steps, from the middle of one thing to another."""

from __future__ import annotations

from typing import Literal

from playwright.sync_api import Locator, Page

STEPS = 8
Edge = Literal["middle", "above", "below"]


def middle(thing: Locator) -> tuple[float, float]:
    """Return the point in the middle of a thing, in the window."""
    box = thing.bounding_box()
    assert box is not None, f"{thing} is not on the page"
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def beside(thing: Locator, edge: Edge) -> tuple[float, float]:
    """Return the point in the middle of a thing, or just inside its upper or lower edge."""
    box = thing.bounding_box()
    assert box is not None, f"{thing} is not on the page"
    heights = {"middle": box["height"] / 2, "above": 4, "below": box["height"] - 4}
    return box["x"] + box["width"] / 2, box["y"] + heights[edge]


def drag(page: Page, handle: Locator, to: Locator, edge: Edge = "middle") -> None:
    """Drag with the mouse."""
    handle.scroll_into_view_if_needed()
    page.mouse.move(*middle(handle))
    page.mouse.down()
    page.mouse.move(*beside(to, edge), steps=STEPS)
    page.mouse.up()


def swipe(page: Page, handle: Locator, to: Locator, edge: Edge = "middle") -> None:
    """Drag with a finger, by Chromium's own touch input."""
    handle.scroll_into_view_if_needed()
    client = page.context.new_cdp_session(page)
    x, y = middle(handle)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touched = [{"x": px, "y": py} for px, py in points]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    touch("touchStart", (x, y))
    end_x, end_y = beside(to, edge)
    for step in range(1, STEPS + 1):
        share = step / STEPS
        touch("touchMove", (x + (end_x - x) * share, y + (end_y - y) * share))
    touch("touchEnd")
    client.detach()
