"""A report in a real browser: light and dark, on a desk and on a phone, for everybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect

from pipeline.report.words import visible
from tests.browser.conftest import Violations
from tests.browser.hostile import HOSTILE
from tests.browser.pictures import Window

RUN = {
    *("glance", "stages", "tax", "language", "measures", "following", "reward", "ppo"),
    *("best-of", "wins", "losses", "samples", "lineage"),
}
MODELS = {"glance", "models", "tax", "language", "measures", "following", "samples", "lineage"}
SIZES = """() => {
  const regions = [...document.querySelectorAll(".scroll")];
  return {
    page: document.documentElement.scrollWidth,
    window: document.documentElement.clientWidth,
    regions: regions.length,
    scrolled: regions.filter((one) => one.scrollWidth > one.clientWidth).length,
  };
}"""
PLACE = """(target) => {
  const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
  return {
    top: document.querySelector(target).getBoundingClientRect().top,
    end: scrollHeight - clientHeight - scrollTop < 2,
  };
}"""


def open_report(page: Page, report: Path) -> str:
    """Open a report with everything unfolded, and return which one it is."""
    page.goto(report.as_uri())
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator("details:not([open])").count() == 0
    return report.parents[1].name.partition("-report")[0]


def test_nothing_has_a_violation_or_is_wider_than_its_window(
    window: Window, report: Path, violations: Violations
):
    name = open_report(window.page, report)
    found = window.page.locator("section").evaluate_all("all => all.map((one) => one.id)")
    assert set(found) == (RUN if name == "run" else MODELS)
    assert violations(window.page) == []
    sizes = window.page.evaluate(SIZES)
    assert sizes["page"] <= sizes["window"] == window.page.viewport_size["width"]
    assert sizes["regions"] > 10
    # On a desk every table fits; on a phone the wider ones scroll for themselves.
    assert (sizes["scrolled"] > 5) == window.kind.startswith("phone")
    window.page.evaluate("window.scrollTo(0, 0)")
    window.picture(f"report-{name}")


def test_every_link_lands_on_its_heading(window: Window, report: Path):
    page = window.page
    name = open_report(page, report)
    targets = set()
    for link in page.locator("a").all():
        target, words = str(link.get_attribute("href")), link.inner_text()
        page.evaluate("window.scrollTo(0, 0)")
        link.click()
        heading = page.locator(f"{target} > h2")
        expect(heading).to_be_in_viewport(ratio=1)
        assert heading.inner_text().startswith(words)
        place = page.evaluate(PLACE, target)
        assert abs(place["top"]) < 2 or place["end"], (target, place)
        assert page.url == f"{report.as_uri()}{target}"
        window.picture(f"report-{name}-{target[1:]}")
        targets.add(target[1:])
    assert targets == (RUN if name == "run" else MODELS)


def test_the_page_follows_the_dark(
    new_context: Callable[..., BrowserContext], report: Path, scheme: str
):
    page = new_context(color_scheme=scheme).new_page()
    page.goto(report.as_uri())
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in colour.strip("rgb()").split(",")]
    assert (sum(channels) > 600) == (scheme == "light")


def test_what_models_wrote_is_text(new_context: Callable[..., BrowserContext], report: Path):
    page = new_context().new_page()
    page.goto(report.as_uri())
    answers = page.locator("dd.answer")
    assert {visible(text) for text in HOSTILE} <= set(answers.all_text_contents())
    assert answers.locator("*").count() == 0
    assert page.locator(":is(script, img, iframe, object, embed, form, base)").count() == 0
    assert page.evaluate("window.stolen") is None
