/** One task on the screen: the prompt, the work, and the bar with what can be done with it. */

import { comparisonView } from "./comparison.js";
import { demonstrationView } from "./demonstration.js";
import { h, iconButton, set } from "./dom.js";
import { notesPanel, promptPanel } from "./panels.js";
import { RankingView } from "./ranking.js";
import { ratingView, stepper } from "./rating.js";
import { letterOf } from "./tiers.js";
import { Timeline } from "./timeline.js";
import { idsOf, missing, unrated } from "./work.js";

const TITLES = {
  comparison: () => "Compare two answers",
  demonstration: () => "Write an answer",
  ranking: (task) => `Rate and rank ${task.completions.length} outputs`,
};

export class TaskScreen {
  #timeline;
  #views = {};
  #on;

  /**
   * @param task the task.
   * @param desk the questions: `flags`, `prompt_flags`.
   * @param work where to begin.
   * @param on `changed()`, `submit()`, `skip()`, `report()`, `leave()`, `say(text)`, `warn(text)`.
   */
  constructor(task, desk, work, on) {
    this.task = task;
    this.flags = desk.flags;
    this.#timeline = new Timeline(work);
    this.#on = on;
    this.inTrouble = false;
    this.title = TITLES[task.kind](task);
    this.steps = task.kind === "ranking" ? stepper(this) : null;
    this.stage = h("div.stage");
    this.notes = notesPanel(this, desk.prompt_flags);
    this.workspace = h("div.workspace", {}, this.steps?.root, this.stage, this.notes.root);
    this.body = h("div.task", { "data-kind": task.kind }, promptPanel(task.prompt), this.workspace);
    this.root = h("div.screen", {}, this.body, this.#bar());
    this.sync();
  }

  /** The work as it is now. */
  get work() {
    return this.#timeline.present;
  }

  /**
   * Change the work.
   *
   * @param kind names a run of changes that is undone in one step (typing).
   * @param say what to tell screen readers.
   */
  change(next, { kind = null, say = null } = {}) {
    this.#timeline.change(next, kind);
    this.#changed(say);
  }

  /** Show work that came from elsewhere; what was here can be had back by undo. */
  take(work) {
    this.#timeline.change(work);
    this.sync();
  }

  /** Look at another step or output. */
  look(where, { focus = true } = {}) {
    this.#timeline.replace({ ...this.work, ...where });
    this.#changed(null);
    if (focus) this.focus();
  }

  /** Tell screen readers something. */
  say(text) {
    this.#on.say(text);
  }

  undo() {
    if (!this.#timeline.canUndo) return;
    this.#timeline.undo();
    this.#changed("Undone");
  }

  redo() {
    if (!this.#timeline.canRedo) return;
    this.#timeline.redo();
    this.#changed("Done again");
  }

  /** Go to the ranking, or to the first output that has no rating yet. */
  toRanking() {
    const [open] = unrated(this.task, this.work);
    if (open === undefined) return this.look({ step: "rank" });
    const ids = idsOf(this.task);
    this.look({ step: "rate", at: ids.indexOf(open) });
    return this.#on.warn(`Rate output ${letterOf(ids, open)} before you rank.`);
  }

  /** Do what the main button says. */
  advance() {
    this.#next().run();
  }

  /** Put the focus at the start of the current step, and that in sight. */
  focus() {
    this.#view().focus();
    const { top } = this.workspace.getBoundingClientRect();
    if (top < 0 || top > window.innerHeight / 2) this.workspace.scrollIntoView({ block: "start" });
  }

  /** Say whether the work is saved. */
  showState(text, trouble = false) {
    this.inTrouble = trouble;
    this.state.textContent = text;
    this.state.classList.toggle("trouble", trouble);
  }

  /** Let nothing be changed while the work is on its way. */
  lock(locked) {
    set(this.body, "inert", locked);
    for (const button of this.bar.querySelectorAll("button")) button.disabled = locked;
    if (!locked) this.sync();
  }

  /** Act on a key; true where it meant something. */
  keydown(event) {
    return this.#view().keydown(event);
  }

  /** Show the work as it is now. */
  sync() {
    const { work } = this;
    const view = this.#view();
    if (this.stage.firstElementChild !== view.root) this.stage.replaceChildren(view.root);
    view.sync(work);
    this.steps?.sync(work);
    this.notes.sync(work);
    this.body.dataset.step = work.step ?? "";
    this.notes.root.hidden = work.step === "rate";
    this.undoButton.disabled = !this.#timeline.canUndo;
    this.redoButton.disabled = !this.#timeline.canRedo;
    this.mainButton.textContent = this.#next().label;
    this.backButton.hidden = work.step === undefined || (work.step === "rate" && work.at === 0);
  }

  #changed(say) {
    this.sync();
    if (say) this.#on.say(say);
    this.#on.changed();
  }

  #view() {
    const name = this.work.step ?? this.task.kind;
    const make = {
      rate: () => ratingView(this),
      rank: () => new RankingView(this),
      comparison: () => comparisonView(this),
      demonstration: () => demonstrationView(this),
    };
    this.#views[name] ??= make[name]();
    return this.#views[name];
  }

  /** Tell what the main button does now. */
  #next() {
    const { task, work } = this;
    const label = task.submitted ? "Submit again" : "Submit";
    if (work.step !== "rate") return { label, run: () => this.#submit() };
    const ids = idsOf(task);
    const open = unrated(task, work).map((id) => ids.indexOf(id));
    if (open.length === 0) return { label: "Go to ranking", run: () => this.look({ step: "rank" }) };
    const next = open.find((at) => at > work.at) ?? open.find((at) => at !== work.at);
    if (next !== undefined) return { label: "Next output", run: () => this.look({ at: next }) };
    return { label: "Go to ranking", run: () => this.toRanking() };
  }

  #submit() {
    const lack = missing(this.task, this.work);
    if (lack === null) this.#on.submit();
    else this.#on.warn(lack);
  }

  #back() {
    if (this.work.step === "rank") this.look({ step: "rate" });
    else this.look({ at: this.work.at - 1 });
  }

  #bar() {
    this.undoButton = iconButton("undo", "Undo (Ctrl+Z)", () => this.undo());
    this.redoButton = iconButton("redo", "Redo (Ctrl+Shift+Z)", () => this.redo());
    this.state = h("p.state");
    this.backButton = h("button", { on: { click: () => this.#back() } }, "Back");
    this.mainButton = h("button.main", { title: "Ctrl+Enter", on: { click: () => this.advance() } });
    const practice = this.task.token === "practice";
    const leave = practice ? "End practice" : "Leave unchanged";
    const aside =
      this.task.submitted || practice
        ? [h("button.plain", { on: { click: () => this.#on.leave() } }, leave)]
        : [
            h("button.plain", { on: { click: () => this.#on.report() } }, "Flag prompt"),
            h("button.plain", { on: { click: () => this.#on.skip() } }, "Skip"),
          ];
    this.bar = h(
      "div.bar",
      { role: "group", "aria-label": "Task" },
      h("div.left", {}, this.undoButton, this.redoButton, this.state),
      h("div.right", {}, aside, this.backButton, this.mainButton),
    );
    return this.bar;
  }
}
