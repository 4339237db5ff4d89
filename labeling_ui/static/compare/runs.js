/** The tab of runs: curves of stages, live while they train; lineage; a table of everything. */

import { h } from "../dom.js";
import { get, post } from "./api.js";
import { Chart } from "./chart.js";
import { Curves } from "./curves.js";
import { lineage } from "./lineage.js";
import { field, fillSelect, select, table, tick } from "./parts.js";
import { number } from "./shading.js";

const LOOK_AGAIN = 2000;

export class Runs {
  #frame;
  #curves = new Curves();
  #chosen = new Set();
  #runs = [];
  #listed = "";
  #stages = h("div.stages");
  #metric = select([], "", { on: { change: () => this.#draw() } });
  #live = h("p.live");
  #chart = new Chart();
  #damaged = h("p.quiet", { "aria-live": "polite", hidden: true });
  #run = select([], "", { on: { change: () => this.#drawLineage() } });
  #lineage = h("div");
  #table = h("div");
  #again = null;
  #open = false;

  constructor(frame) {
    this.#frame = frame;
    this.root = h(
      "div.runs",
      {},
      h("h2", {}, "Curves"),
      h("fieldset", {}, h("legend", {}, "Stages"), this.#stages),
      h("div.start", {}, field("Figure", this.#metric), this.#live),
      this.#chart.root,
      this.#damaged,
      h("h2", {}, "Lineage"),
      h("div.start", {}, field("Run", this.#run)),
      this.#lineage,
      h("h2", {}, "All stages"),
      this.#table,
    );
  }

  async open() {
    this.#open = true;
    await this.#look();
  }

  close() {
    this.#open = false;
    clearTimeout(this.#again);
  }

  async #look() {
    clearTimeout(this.#again);
    if (document.visibilityState === "visible") {
      await this.#frame.attempt(async () => {
        await this.#list();
        await this.#read();
      });
    }
    clearTimeout(this.#again);
    if (this.#open) this.#again = setTimeout(() => this.#look(), LOOK_AGAIN);
  }

  async #list() {
    const { own, runs } = await get("/runs");
    this.#showLive(runs);
    const told = JSON.stringify(runs);
    if (told === this.#listed) return;
    const first = this.#listed === "";
    this.#listed = told;
    this.#runs = runs;
    this.#forgetGone();
    if (first) this.#chooseFirst(own);
    this.#drawStages(own);
    fillSelect(this.#run, [["", runs.map(({ name }) => [name, name])]], first ? own : this.#run.value);
    this.#drawLineage();
    this.#drawTable();
  }

  async #read() {
    this.#curves.follow(
      [...this.#chosen].map((name) => {
        const cut = name.indexOf("/");
        return { run: name.slice(0, cut), stage: name.slice(cut + 1) };
      }),
    );
    for (let more = true; more; ) {
      more = false;
      for (const asked of this.#curves.questions) {
        const { curves } = await post("/metrics", { curves: asked });
        more = this.#curves.take(asked, curves) || more;
      }
    }
    const { metrics } = this.#curves;
    const chosen = metrics.includes(this.#metric.value) ? this.#metric.value : this.#curves.first;
    if (metrics.join() !== [...this.#metric.options].map(({ value }) => value).join()) {
      fillSelect(this.#metric, [["", metrics.map((name) => [name, name])]], chosen);
    }
    this.#draw();
  }

  /** Begin with what trains, else with the last stage of the app's run that has logged anything. */
  #chooseFirst(own) {
    const logged = this.#runs.flatMap((run) =>
      run.stages.filter(({ has_log }) => has_log).map((stage) => ({ run: run.name, ...stage })),
    );
    const training = logged.filter(({ status }) => status === "running");
    const mine = logged.filter(({ run, name }) => run === own && !name.startsWith("evaluate"));
    for (const { run, name } of training.length ? training : mine.slice(-1)) this.#chosen.add(`${run}/${name}`);
  }

  /** What was chosen may be gone: asking for it would fail for all. */
  #forgetGone() {
    const there = new Set(this.#runs.flatMap(({ name, stages }) => stages.map((stage) => `${name}/${stage.name}`)));
    for (const name of this.#chosen) if (!there.has(name)) this.#chosen.delete(name);
  }

  #drawStages(own) {
    const opened = new Set([...this.#stages.querySelectorAll("details[open]")].map((one) => one.dataset.run));
    const fresh = this.#stages.childElementCount === 0;
    const focused = this.#stages.contains(document.activeElement)
      ? document.activeElement.closest("[data-name]")?.dataset.name
      : null;
    const shown = this.#runs.filter(({ stages }) => stages.some(({ has_log }) => has_log));
    this.#stages.replaceChildren(
      ...shown.map(({ name, stages }) => {
        const boxes = stages.filter(({ has_log }) => has_log).map((stage) => this.#box(name, stage.name));
        const open = fresh ? name === own || shown.length === 1 : opened.has(name);
        return h("details", { open, "data-run": name }, h("summary", {}, name), h("div.ticks", {}, boxes));
      }),
    );
    if (shown.length === 0) this.#stages.append(h("p.quiet", {}, "No stage has logged anything yet."));
    if (focused) this.#stages.querySelector(`[data-name="${CSS.escape(focused)}"] input`)?.focus();
  }

  #box(run, stage) {
    const name = `${run}/${stage}`;
    const box = tick(stage, this.#chosen.has(name), (on) => {
      if (on) this.#chosen.add(name);
      else this.#chosen.delete(name);
      this.#frame.attempt(() => this.#read());
    });
    box.dataset.name = name;
    return box;
  }

  #draw() {
    const damaged = this.#curves.damaged.map(([name, lines]) => `${name} (${lines})`).join(", ");
    const words = damaged && `Lines that are no figures are left out: ${damaged}.`;
    this.#damaged.hidden = words === "";
    if (this.#damaged.textContent !== words) this.#damaged.textContent = words;
    this.#chart.draw(this.#metric.value || "figures", this.#curves.lines(this.#metric.value));
  }

  #showLive(runs) {
    const training = runs.flatMap(({ name, stages }) =>
      stages.filter(({ status }) => status === "running").map((stage) => `${name}/${stage.name}`),
    );
    const words = training.length ? `Training now: ${training.join(", ")}` : "Nothing trains at the moment.";
    this.#live.classList.toggle("now", training.length > 0);
    if (this.#live.textContent !== words) this.#live.textContent = words;
  }

  #drawLineage() {
    const run = this.#runs.find(({ name }) => name === this.#run.value);
    this.#lineage.replaceChildren(run ? lineage(run.name, run.stages) : h("p.quiet", {}, "There is no run here yet."));
  }

  #drawTable() {
    const rows = this.#runs.flatMap(({ name, stages }) => stages.map((stage) => stageRow(name, stage)));
    const heads = ["Run", "Stage", "Status", "Started", "Seconds", "Figures"];
    this.#table.replaceChildren(table("Stages of all runs", heads, rows));
  }
}

function stageRow(run, stage) {
  const figures = Object.entries(stage.metrics).slice(0, 4).map(([key, value]) => `${key} ${number(value)}`);
  const told = stage.error ? [stage.error] : figures;
  const cells = [stage.name, stage.status, moment(stage.started), stage.seconds ? number(stage.seconds) : "", told.join(", ")];
  return h("tr", {}, h("th", { scope: "row" }, run), cells.map((cell) => h("td", {}, cell)));
}

function moment(iso) {
  return iso ? new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
}
