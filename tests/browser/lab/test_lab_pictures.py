"""Take a picture of every tab, on a desk and on a phone, light and dark, for people to look at."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.lab.page import TABS, LabPage
from tests.browser.pictures import Window
from tests.browser.running import Person, Server


def test_pictures(window: Window, server: Server, lead_account: Person):
    lead = LabPage(window.page, server)
    lead.sign_in(lead_account)
    for number, tab in enumerate(TABS):
        if number > 0:
            lead.open(tab)
        else:
            expect(lead.panel.locator("svg.marks")).to_have_count(2)
        if tab == "Explorer":
            lead.choose("Judgment", "2: ")
        window.page.evaluate("window.scrollTo(0, 0)")
        window.picture(f"lab-{tab.lower()}", whole=True)
