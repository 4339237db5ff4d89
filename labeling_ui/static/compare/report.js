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

  constructor(frame) {
    this.#frame = frame;
    this.root = h("div.reporting", {}, h("div.start", {}, field("Run", this.#run), this.#alone), this.#state, this.#page);
  }

  async open() {
    await this.#frame.attempt(async () => {
      const { own, runs } = await get("/runs");
      const chosen = this.#run.value || own;
      fillSelect(this.#run, [["", runs.map(({ name }) => [name, name])]], chosen);
      await this.#look();
    });
  }

  close() {
    clearTimeout(this.#again);
  }

  async #look() {
    this.close();
    const run = this.#run.value;
    if (run === "") {
      this.#say("There is no run here yet.", true);
      return;
    }
    await this.#frame.attempt(async () => {
      const { version } = await get("/report", { run });
      if (version === null) this.#say(`${run} has no report yet: 'steerline report' writes it, and it shows here.`, true);
      else await this.#show(run, version);
    });
    this.close();
    this.#again = setTimeout(() => this.#look(), LOOK_AGAIN);
  }

  async #show(run, version) {
    const name = `${run} ${version}`;
    if (name === this.#shown) return;
    this.#page.srcdoc = await getText("/report.html", { run });
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
