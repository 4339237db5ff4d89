/** The tab of a run's report: the page that `steerline report` writes, as it is now. */

import { h } from "../dom.js";
import { get, getText } from "./api.js";
import { field, fillSelect, select } from "./parts.js";

const LOOK_AGAIN = 5000;

export class Report {
  #frame;
  #run = select([], "", { on: { change: () => this.#look() } });
  #state = h("p.quiet", { "aria-live": "polite" });
  #alone = h("a", { target: "_blank", rel: "noopener" }, "Open it alone");
  // Nothing in it may run, and it can reach nothing: the page's own policy holds for it as well.
  #page = h("iframe.report", { sandbox: "", title: "Report of the run", hidden: true });
  #shown = "";
  #again = null;
  #open = false;

  constructor(frame) {
    this.#frame = frame;
    this.root = h("div.reporting", {}, h("div.start", {}, field("Run", this.#run), this.#alone), this.#state, this.#page);
  }

  async open() {
    this.#open = true;
    await this.#frame.attempt(async () => {
      const { own, runs } = await get("/runs");
      const chosen = this.#run.value || own;
      fillSelect(this.#run, [["", runs.map(({ name }) => [name, name])]], chosen);
      await this.#look();
    });
  }

  close() {
    this.#open = false;
    clearTimeout(this.#again);
  }

  async #look() {
    clearTimeout(this.#again);
    const run = this.#run.value;
    if (run === "") {
      this.#say("There is no run here yet.", true);
      return;
    }
    await this.#frame.attempt(async () => {
      const { version } = await get("/report", { run });
      if (run !== this.#run.value) return;
      if (version === null) this.#say(`${run} has no report yet: 'steerline report' writes it, and it shows here.`, true);
      else await this.#show(run, version);
    });
    clearTimeout(this.#again);
    if (this.#open) this.#again = setTimeout(() => this.#look(), LOOK_AGAIN);
  }

  async #show(run, version) {
    const name = `${run} ${version}`;
    if (name === this.#shown) return;
    const page = await getText("/report.html", { run });
    // Another run may have been chosen meanwhile, whose report is not to be covered.
    if (run !== this.#run.value) return;
    this.#page.srcdoc = keepInFrame(page);
    this.#alone.href = `/api/lab/compare/report.html?${new URLSearchParams({ run })}`;
    this.#page.title = `Report of ${run}`;
    this.#say("", false);
    this.#shown = name;
  }

  #say(words, empty) {
    if (this.#state.textContent !== words) this.#state.textContent = words;
    this.#page.hidden = empty;
    this.#alone.hidden = empty;
    if (empty) this.#shown = "";
  }
}

/**
 * Have the links of a page to its own sections stay in the frame.
 *
 * A frame that is given its page as text takes addresses from the page around it: "#tax" would leave
 * the report for that page, which may not be framed.
 */
function keepInFrame(page) {
  const read = new DOMParser().parseFromString(page, "text/html");
  for (const link of read.querySelectorAll('a[href^="#"]')) {
    link.setAttribute("href", `about:srcdoc${link.getAttribute("href")}`);
  }
  return `<!doctype html>${read.documentElement.outerHTML}`;
}
