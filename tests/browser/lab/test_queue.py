"""Every question that the page asks is answered, however late it learns of a stream's end."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, expect

from tests.browser.lab.page import TABS, LabPage
from tests.browser.running import Person, Server

LATE = """
// The end of a stream is held back until the page has asked something else, and has been answered.
(() => {
  const plain = window.fetch;
  let joined = 0;
  window.heldBack = 0;
  const late = () => new TransformStream({
    async transform(part, page) {
      const at = part.search(/data:[^\\n]*close_stream/);
      page.enqueue(at < 0 ? part : part.slice(0, at));
      if (at < 0) return;
      window.heldBack += 1;
      for (const before = joined; joined === before; ) {
        await new Promise((go) => setTimeout(go, 20));
      }
      page.enqueue(part.slice(at));
    },
  });
  window.fetch = async (...asked) => {
    const url = String(asked[0]?.url ?? asked[0]);
    const answer = await plain(...asked);
    if (url.includes("/queue/join")) setTimeout(() => (joined += 1), 100);
    if (!url.includes("/queue/data")) return answer;
    const body = answer.body
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(late())
      .pipeThrough(new TextEncoderStream());
    return new Response(body, answer);
  };
})();
"""


def test_a_question_beside_the_end_of_a_stream_is_answered(
    new_context: Callable[..., BrowserContext], server: Server, lead_account: Person
):
    page = new_context().new_page()
    page.add_init_script(LATE)
    lead = LabPage(page, server)
    lead.sign_in(lead_account)
    for tab in [*TABS][1:]:
        held = page.evaluate("window.heldBack")
        assert held > 0
        lead.open(tab)
        expect(lead.panel.get_by_text(TABS[tab]).first).to_be_visible()
        page.wait_for_function(f"window.heldBack > {held}")
