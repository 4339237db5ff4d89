"""Drive the lead's page as a person would, and read what it shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.running import Person, Server

READY = 20_000
SETTLED, PATIENCE = 0.15, 40.0
JOIN = re.compile("/queue/join")
COUNT_WORK = """
// Count what Gradio's queue is asked, and what of it is done: its answers come by a stream that
// many questions share, and that ends whenever it likes. They are read before the page has them: it
// aborts the stream once it is told that nothing follows, and what a copy still held would be lost.
(() => {
  const plain = window.fetch;
  const known = new Set();
  const done = new Set();
  let joining = 0;
  window.countWork = () => joining + [...known].filter((id) => !done.has(id)).length;
  function watched(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    return new ReadableStream({
      async pull(page) {
        const { value, done: ended } = await reader.read();
        if (ended) return page.close();
        const messages = (text + value).split("\\n\\n");
        text = messages.pop();
        for (const message of messages.filter((one) => one.startsWith("data:"))) {
          const { msg, event_id } = JSON.parse(message.slice(5));
          if (msg === "process_completed") done.add(event_id);
        }
        page.enqueue(value);
      },
      cancel: (reason) => reader.cancel(reason),
    }).pipeThrough(new TextEncoderStream());
  }
  window.fetch = async (...asked) => {
    const url = String(asked[0]?.url ?? asked[0]);
    const joins = url.includes("/queue/join");
    joining += joins;
    try {
      const answer = await plain(...asked);
      if (joins && answer.ok) known.add((await answer.clone().json()).event_id);
      return url.includes("/queue/data") ? new Response(watched(answer.body), answer) : answer;
    } finally {
      joining -= joins;
    }
  };
})();
"""
TABS = {
    "Overview": "Reported prompts",
    "Agreement": "Which stage was preferred",
    "Labelers": "Screening",
    "Inbox": "Waiting",
    "Reviews": "Answers",
    "Explorer": "Found",
    "Instructions": "Newest version",
    "Data": "What a reward model would be trained on now",
}


class LabPage:
    """The lead's page in one browser window."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server
        page.add_init_script(COUNT_WORK)

    def sign_in(self, person: Person) -> None:
        self.page.goto(f"{self.server.url}/signin?next=/lab")
        self.page.get_by_label("Name").fill(person.name)
        self.page.get_by_label("Password").fill(person.password)
        with self.working():
            # The page is made while people sign in already: the first one waits for it.
            self.page.get_by_role("button", name="Sign in").click(timeout=READY)
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Lab")

    def open(self, tab: str) -> None:
        """Go to another tab and wait until it is filled."""
        with self.working():
            self.page.get_by_role("tab", name=tab, exact=True).click()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Wait until the server has done what is asked of it here, and the page shows that."""
        with self.page.expect_request(JOIN, timeout=READY):
            yield
        asked = idle = time.monotonic()
        # What is done may ask for more at once.
        while time.monotonic() < idle + SETTLED:
            if self.page.evaluate("countWork()"):
                idle = time.monotonic()
            assert idle < asked + PATIENCE, "the server has not done what was asked"
            self.page.wait_for_timeout(20)
        busy = '[data-testid="status-tracker"]:not(.hide):visible, .pending:visible'
        expect(self.page.locator(busy)).to_have_count(0, timeout=READY)
        self.page.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(done)))")

    @property
    def panel(self) -> Locator:
        """Return the tab that is open."""
        return self.page.locator('[role="tabpanel"]:visible')

    def field(self, label: str) -> Locator:
        return self.panel.get_by_label(label, exact=True)

    def click(self, button: str) -> None:
        """Press a button that has the server do something."""
        with self.working():
            self.panel.get_by_role("button", name=button, exact=True).click()

    def parts(self) -> list[str]:
        """Return the names of the parts of the tab that are folded."""
        return self.panel.locator(".gr-accordion > button > span:first-child").all_inner_texts()

    def unfold(self, part: str) -> None:
        # An arrow is part of the button's name.
        self.panel.get_by_role("button", name=part).click()

    def choose(self, label: str, option: str, *, alone: bool = False) -> None:
        """Choose the first with a text from a list; alone, where nothing comes of it yet."""
        self.panel.get_by_role("combobox", name=label, exact=True).click()
        with nullcontext() if alone else self.working():
            self.page.get_by_role("option", name=option).first.click()

    def tick(self, group: str, label: str) -> None:
        """Tick one of a group of boxes."""
        boxes = self.panel.get_by_role("group").filter(has_text=group)
        with self.working():
            boxes.get_by_role("checkbox", name=label, exact=True).check()

    def expect_rows(self, title: str, test: Callable[[list[list[str]]], bool]) -> None:
        """Wait until a table shows rows that pass a test."""
        end = time.monotonic() + READY / 1000
        while not test(rows := self.rows(title)):
            assert time.monotonic() < end, f"{title} shows {rows}"
            self.page.wait_for_timeout(50)

    def rows(self, title: str) -> list[list[str]]:
        """Return what a table shows, a list a line."""
        table = self.panel.get_by_role("table", name=title)
        lines: list[list[str]] = table.locator("tbody tr").evaluate_all(
            "lines => lines.map(line => [...line.cells].map(cell => cell.textContent))"
        )
        return lines

    def cards(self) -> dict[str, str]:
        """Return the texts that are shown in full, by title."""
        pairs = self.panel.locator("article").evaluate_all(
            "all => all.map(one => ['h2', 'pre'].map(tag => one.querySelector(tag).textContent))"
        )
        return dict(pairs)

    def upload(self, file: Path) -> None:
        """Give a file to the tab's place for one."""
        with self.page.expect_file_chooser() as chooser:
            self.panel.get_by_role("button", name="Click to upload").click()
        chooser.value.set_files(file)
        expect(self.panel.get_by_text(file.stem)).to_be_visible()

    def told(self, words: str) -> None:
        """Wait for a message, and put it away."""
        message = self.page.get_by_test_id("toast-body").filter(has_text=words)
        expect(message).to_be_visible()
        message.get_by_label("Close").click()
        expect(message).to_be_hidden()

    def download(self, link: str) -> Path:
        """Press a link of the exports and return where the file lies."""
        with self.page.expect_download() as started:
            self.panel.get_by_role("link", name=link, exact=True).click()
        return Path(started.value.path())
