/** What surrounds the task: the header with its menu, notices, and what screen readers are told. */

import { h, set } from "./dom.js";

export class Frame {
  #stage = h("div.place");
  #notices = h("div.notices");
  #alerts = h("div.notices.alerts");
  #polite = h("div.visually-hidden", { "aria-live": "polite" });
  #urgent = h("div.visually-hidden", { role: "alert" });
  #title = h("h1", { tabindex: "-1" }, "Labeling");
  #progress = h("p.progress");
  #meter = h("progress.meter", { max: "1", value: "0", "aria-label": "Today's goal", hidden: true });
  #menu = h("details.menu");

  /** @param on `instructions()`, `history()`, `practice()`, `ownPrompt()`, `work()`, `signOut()`. */
  constructor(on) {
    this.on = on;
    const instructions = h("button", { on: { click: on.instructions } }, "Instructions ", h("kbd", {}, "?"));
    this.root = h(
      "div",
      { id: "board" },
      h(
        "header.top",
        {},
        h("p.brand", {}, "Steerline"),
        this.#title,
        h("div.today", {}, this.#progress, this.#meter),
        h("nav.tools", { "aria-label": "Labeling" }, instructions, this.#menu),
      ),
      this.#notices,
      this.#alerts,
      this.#stage,
      this.#polite,
      this.#urgent,
    );
    document.addEventListener("pointerdown", (event) => {
      if (!this.#menu.contains(event.target)) this.#menu.open = false;
    });
    this.#menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#closeMenu();
    });
  }

  /** Show a screen under a title, and put the focus there. */
  show(title, element) {
    this.#title.textContent = title;
    document.title = `${title} · Steerline`;
    this.#stage.replaceChildren(element);
    this.#title.focus({ preventScroll: true });
    window.scrollTo({ top: 0 });
  }

  /** Show who is here and how much is done. */
  showDesk(desk) {
    const { screening, goal, today } = desk;
    this.#progress.textContent = progressWords(desk);
    const [done, of] = screening ? [screening.done, screening.of] : [today, goal];
    this.#meter.hidden = !of;
    set(this.#meter, "aria-label", screening ? "The test" : "Today's goal");
    if (of) this.#meter.value = Math.min(done / of, 1);
    this.#menu.replaceChildren(...this.#menuItems(desk));
  }

  /**
   * Show a notice above the task, a bad one where it stays in sight. One with the same name takes
   * its place.
   *
   * @param options `tone` ("info", "good", "bad"), `actions` (`[{label, run}]` or `{label, href}`).
   */
  notice(name, text, { tone = "info", actions = [] } = {}) {
    const controls = actions.map((action) =>
      action.href
        ? h("a", { href: action.href }, action.label)
        : h("button.link", { on: { click: action.run } }, action.label),
    );
    const close = () => this.dismiss(name);
    const button = h("button.link.close", { on: { click: close }, "aria-label": "Close this notice" }, "×");
    const notice = h(`div.notice.${tone}`, { "data-name": name }, h("p", {}, text), controls, button);
    const earlier = this.#find(name);
    if (earlier) earlier.replaceWith(notice);
    else (tone === "bad" ? this.#alerts : this.#notices).append(notice);
    // A countdown is told once, not at every number.
    const told = earlier && withoutNumbers(earlier.querySelector("p").textContent);
    if (told !== withoutNumbers(text)) this.say(text, tone === "bad");
  }

  /** Say what is missing or wrong, each time anew. */
  warn(text) {
    this.dismiss("missing");
    this.notice("missing", text, { tone: "bad" });
  }

  /** Take a notice away. */
  dismiss(name) {
    this.#find(name)?.remove();
  }

  /** Tell screen readers something; at once if it cannot wait. */
  say(text, urgent = false) {
    const region = urgent ? this.#urgent : this.#polite;
    // The same words again are a change only if something differs.
    region.textContent = region.textContent === text ? `${text}\u00a0` : text;
  }

  #find(name) {
    return this.root.querySelector(`.notice[data-name="${name}"]`);
  }

  #closeMenu() {
    this.#menu.open = false;
    this.#menu.querySelector("summary").focus();
  }

  #menuItems(desk) {
    const item = (label, run) => {
      const act = () => {
        this.#closeMenu();
        run();
      };
      return h("li", {}, h("button", { on: { click: act } }, label));
    };
    const items = [
      item("Next task", this.on.work),
      item("My work", this.on.history),
      item("Practice", this.on.practice),
      desk.admitted ? item("Write a prompt", this.on.ownPrompt) : null,
      desk.role === "lead" ? h("li", {}, h("a", { href: "/lab" }, "The lab")) : null,
    ];
    return [
      h("summary", {}, "Menu"),
      h(
        "div.sheet",
        {},
        h("p.quiet", {}, "Signed in as ", h("bdi", {}, desk.name)),
        h("ul", {}, items.filter(Boolean)),
        h("ul", {}, item("Sign out", this.on.signOut)),
      ),
    ];
  }
}

/** Make a screen that only says something, with buttons. */
export function messageScreen(lines, actions = []) {
  return h(
    "div.message",
    {},
    lines.map((line, at) => h(at ? "p" : "p.lead", {}, line)),
    h("div.actions", {}, actions.map(({ label, run }, at) =>
      h(at ? "button" : "button.main", { on: { click: run } }, label),
    )),
  );
}

function withoutNumbers(text) {
  return text.replace(/\d+/g, "");
}

function progressWords({ today, goal, waiting, screening }) {
  if (screening) return `Test task ${Math.min(screening.done + 1, screening.of)} of ${screening.of}`;
  const done = goal ? `${today} of ${goal} today` : `${today} today`;
  return waiting > 0 ? `${done} · ${waiting} waiting` : done;
}
