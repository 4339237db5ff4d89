/**
 * The lead's page of comparisons: tabs over checkpoints, runs, the report and saved prompts.
 *
 * The page around it is Gradio's. Nothing here goes through its queue: answers stream by `fetch`, and
 * nothing that a reload resets is kept here alone.
 */

import { h, set } from "../dom.js";
import { Comparing } from "./comparing.js";
import { Regression } from "./regression.js";
import { Report } from "./report.js";
import { Runs } from "./runs.js";

class Frame {
  #polite = h("p.visually-hidden", { "aria-live": "polite" });
  #urgent = h("p.visually-hidden", { role: "alert" });
  #notice = h("div.notices");
  #tabs = [];
  #open = null;
  root = null;

  /** Draw the page into the element; again where the page around it was drawn anew. */
  start(element) {
    if (!this.root) this.#make();
    element.replaceChildren(this.root);
  }

  /** Do something that needs the server; where that fails, say why. */
  async attempt(act) {
    try {
      await act();
      this.#notice.querySelector('[data-about="server"]')?.remove();
    } catch (error) {
      if (error.code === undefined) throw error;
      this.#show(error.message, "bad", "server");
    }
  }

  /** Say what is missing or wrong. */
  warn(words) {
    this.#show(words, "bad", "work");
  }

  /** Say that something was done. */
  tell(words) {
    this.#show(words, "good", "work");
  }

  /** Take what was said away. */
  dismiss() {
    this.#notice.replaceChildren();
  }

  /** Tell screen readers something; at once if it cannot wait. */
  say(words, urgent = false) {
    const region = urgent ? this.#urgent : this.#polite;
    // The same words again are a change only if something differs.
    region.textContent = region.textContent === words ? `${words}\u00a0` : words;
  }

  #show(words, tone, about) {
    const earlier = this.#notice.querySelector(`[data-about="${about}"]`);
    if (earlier?.firstChild.textContent === words) return;
    const close = h("button.link", { "aria-label": "Close this notice", on: { click: () => notice.remove() } }, "×");
    const link = words.startsWith("You are signed out")
      ? h("a", { href: "/signin?next=/lab/compare" }, "Sign in again")
      : null;
    const notice = h(`div.notice.${tone}`, { "data-about": about }, h("p", {}, words), link, close);
    if (earlier) earlier.replaceWith(notice);
    else this.#notice.append(notice);
    this.say(words, tone === "bad");
  }

  #make() {
    const comparing = new Comparing(this);
    const use = (messages) => {
      this.#choose(0);
      comparing.use(messages);
    };
    const pages = [
      ["Compare", comparing],
      ["Runs", new Runs(this)],
      ["Report", new Report(this)],
      ["Regression prompts", new Regression(this, use)],
    ];
    this.#tabs = pages.map(([name, page]) => makeTab(name, page));
    const list = h("div.tabs", { role: "tablist", "aria-label": "Views" }, this.#tabs.map(({ tab }) => tab));
    list.addEventListener("keydown", (event) => this.#move(event));
    this.#tabs.forEach(({ tab }, at) => tab.addEventListener("click", () => this.#choose(at)));
    this.root = h(
      "div",
      { id: "compare" },
      head(),
      h("div.body", {}, list, this.#notice, this.#tabs.map(({ panel }) => panel)),
      this.#polite,
      this.#urgent,
    );
    this.#choose(Math.max(0, this.#tabs.findIndex(({ anchor }) => `#${anchor}` === location.hash)));
  }

  #choose(at) {
    if (this.#open === at) return;
    this.#tabs[this.#open]?.page.close?.();
    this.#open = at;
    this.dismiss();
    this.#tabs.forEach(({ tab, panel }, other) => {
      set(tab, "aria-selected", String(other === at));
      set(tab, "tabindex", other === at ? "0" : "-1");
      panel.hidden = other !== at;
    });
    history.replaceState(null, "", `#${this.#tabs[at].anchor}`);
    this.#tabs[at].page.open();
  }

  #move(event) {
    const { length } = this.#tabs;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#choose((this.#open + step + length) % length);
    this.#tabs[this.#open].tab.focus();
  }
}

function makeTab(name, page) {
  const anchor = name.toLowerCase().split(" ")[0];
  const [tabId, panelId] = [`compare-tab-${anchor}`, `compare-panel-${anchor}`];
  const tab = h("button", { role: "tab", id: tabId, "aria-controls": panelId }, name);
  const panel = h("div.panel", { role: "tabpanel", id: panelId, "aria-labelledby": tabId, hidden: true }, page.root);
  return { tab, panel, page, anchor };
}

function head() {
  const links = [["/lab/", "Lab"], ["/label/", "Label"], ["/password", "Password"]];
  return h(
    "header",
    {},
    h("p.brand", {}, "Steerline"),
    h("h1", {}, "Compare"),
    h("nav", { "aria-label": "Pages" }, links.map(([href, name]) => h("a", { href }, name))),
    h("form", { method: "post", action: "/signout" }, h("button.link", { type: "submit" }, "Sign out")),
  );
}

const frame = new Frame();
window.steerlineCompare = { start: (element) => frame.start(element) };
window.dispatchEvent(new Event("steerline-compare"));
