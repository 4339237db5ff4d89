"""Move a mouse and a finger as people do, in steps; where the aim is out of sight, to the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from playwright.sync_api import Locator, Page

STEPS = 8
EDGE = 90
"""Nearer than this to an edge of the window, the board scrolls while something is dragged."""

Edge = Literal["middle", "above", "below"]
Point = tuple[float, float]


def point_of(thing: Locator, edge: Edge = "middle") -> Point:
    """Return the point in the middle of a thing, or just inside its upper or lower edge."""
    box = thing.bounding_box()
    assert box is not None, f"{thing} is not on the page"
    heights = {"middle": box["height"] / 2, "above": 4, "below": box["height"] - 4}
    return box["x"] + box["width"] / 2, box["y"] + heights[edge]


def drag(page: Page, handle: Locator, to: Locator, edge: Edge = "middle") -> None:
    """Drag with the mouse."""
    start = _reach(page, handle)
    page.mouse.move(*start)
    page.mouse.down()
    _aim(page, page.mouse.move, start, lambda: point_of(to, edge))
    page.mouse.up()


def swipe(page: Page, handle: Locator, to: Locator, edge: Edge = "middle") -> None:
    """Drag with a finger, by Chromium's own touch input."""
    client = page.context.new_cdp_session(page)

    def touch(kind: str, *points: Point) -> None:
        touched = [{"x": x, "y": y} for x, y in points]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    start = _reach(page, handle)
    touch("touchStart", start)
    _aim(page, lambda x, y: touch("touchMove", (x, y)), start, lambda: point_of(to, edge))
    touch("touchEnd")
    client.detach()


def _reach(page: Page, handle: Locator) -> Point:
    """Bring a handle into the middle of the window, and return where it is when all is still."""
    page.evaluate("Promise.all(document.getAnimations().map(one => one.finished))")
    handle.evaluate('one => one.scrollIntoView({ block: "center" })')
    return point_of(handle)


def _aim(
    page: Page, move: Callable[[float, float], object], start: Point, aim: Callable[[], Point]
) -> None:
    """Move from the start to an aim, and wait at the edge while the page brings it nearer."""
    size = page.viewport_size
    assert size is not None
    height = size["height"]
    x, y = start
    for _ in range(200):
        aim_x, aim_y = aim()
        end_y = min(max(aim_y, 2), height - 2)
        for step in range(1, STEPS + 1):
            move(x + (aim_x - x) * step / STEPS, y + (end_y - y) * step / STEPS)
        x, y = aim_x, end_y
        page.wait_for_timeout(30)
        still = abs(aim()[1] - end_y) < 1
        if still and (EDGE <= end_y <= height - EDGE or _at_end(page, up=end_y < EDGE)):
            return
    raise AssertionError("the aim did not come into sight")


def _at_end(page: Page, *, up: bool) -> bool:
    """Tell whether the page can be scrolled no further."""
    top, room = page.evaluate(
        "[scrollY, document.documentElement.scrollHeight - innerHeight - scrollY]"
    )
    return bool(top <= 0 if up else room <= 1)
