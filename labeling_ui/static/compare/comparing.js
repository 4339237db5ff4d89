/** The tab where checkpoints answer the same prompt side by side. */

import { h } from "../dom.js";
import { get, lines, post } from "./api.js";
import { Asking } from "./asking.js";
import { Column } from "./column.js";
import { excerpt, field, fillSelect, select } from "./parts.js";
import { legend, nameReference } from "./shading.js";

/** Return the ways to show answers: `[view, words]`. */
function viewsOf(reference) {
  return [
    ["probability", "Probability of each token"],
    ...(reference === null ? [] : [["base", `Change from ${reference}`]]),
    ["words", "Words that differ"],
    ["plain", "Plain text"],
  ];
}

export class Comparing {
  #frame;
  #asking = new Asking();
  #columns = [];
  #reference = null;
  #stop = null;
  #prompts = [];
  #ask = h("button.main", { on: { click: () => this.#generate() } }, "Ask");
  #halt = h("button", { disabled: true, on: { click: () => this.#stop?.abort() } }, "Stop");
  #save = h("button", { on: { click: () => this.#savePrompt() } }, "Save the prompt");
  #run = select([], "", { on: { change: () => this.#frame.attempt(() => this.#fillPrompts()) } });
  #take = select([["", [["", "Choose a prompt…"]]]], "", { on: { change: () => this.#takePrompt() } });
  #view = select([["", viewsOf(null)]], "probability", { on: { change: () => this.#show() } });
  #other = select([], "0", { on: { change: () => this.#show() } });
  #legend = h("ul.shades");
  #otherField = field("Compared with", this.#other);
  #tools = h("div.tools", { hidden: true }, field("Show", this.#view), this.#otherField, this.#legend);
  #answers = h("div.columns");

  constructor(frame) {
    this.#frame = frame;
    this.root = h(
      "div.comparing",
      {},
      h(
        "div.start",
        {},
        field("Prompts of the run", this.#run),
        field("Take a prompt", this.#take),
        h("p.hint", {}, "Saved prompts, and some that the run's stages were asked."),
      ),
      this.#asking.root,
      h("div.actions", {}, this.#ask, this.#halt, this.#save),
      this.#tools,
      this.#answers,
    );
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#generate();
    });
  }

  /** Look what there is to ask. */
  async open() {
    await this.#frame.attempt(async () => {
      const models = await get("/models");
      this.#asking.fill(models);
      const none = models.models.every(({ kind }) => kind !== "policy");
      if (!models.running) this.#frame.warn("This app runs no models. Start it with 'steerline serve'.");
      else if (none) this.#frame.warn("No stage has a model yet. Train one first.");
      await this.#fillPrompts();
    });
  }

  /** Show a prompt, to be asked. */
  use(messages) {
    this.#asking.messages = messages;
    this.#asking.focus();
  }

  async #fillPrompts() {
    const { saved, examples, run, runs } = await get("/prompts", { run: this.#run.value });
    fillSelect(this.#run, [["", runs.map((name) => [name, name])]], run);
    this.#prompts = [...saved, ...examples];
    const options = (list, from) => list.map((messages, at) => [String(from + at), excerpt(messages)]);
    const groups = [["", [["", "Choose a prompt…"]]]];
    if (saved.length) groups.push(["Regression set", options(saved, 0)]);
    if (examples.length) groups.push(["Of the run", options(examples, saved.length)]);
    fillSelect(this.#take, groups, "");
  }

  #takePrompt() {
    const messages = this.#prompts[Number(this.#take.value)];
    if (this.#take.value !== "" && messages) this.use(messages);
    this.#take.value = "";
  }

  async #savePrompt() {
    const { missing } = this.#asking;
    if (missing?.startsWith("Write")) {
      this.#frame.warn(missing);
      return;
    }
    await this.#frame.attempt(async () => {
      const { added, count } = await post("/prompts", { messages: this.#asking.messages });
      const words = added ? "The prompt is saved" : "The prompt was saved before";
      this.#frame.tell(`${words}: the regression set has ${count}.`);
      await this.#fillPrompts();
    });
  }

  async #generate() {
    const { missing } = this.#asking;
    if (missing || this.#stop) {
      if (missing) this.#frame.warn(missing);
      return;
    }
    this.#frame.dismiss();
    const { request, columns: models } = this.#asking;
    this.#columns = models.map((id, at) => new Column("ABCD"[at], id, request));
    this.#answers.replaceChildren(...this.#columns.map(({ root }) => root));
    this.#offerViews(request);
    this.#frame.say("The checkpoints answer.");
    this.#stop = new AbortController();
    this.#working(true);
    try {
      for await (const event of lines("/answers", { ...request, models }, this.#stop.signal)) {
        const column = this.#columns[event.column];
        column.take(event);
        this.#announce(column, event);
        if (event.type === "finished") this.#compare();
      }
      this.#frame.say(outcome(this.#columns));
    } catch (error) {
      if (error.code === undefined) throw error;
      if (error.code !== "stopped") this.#frame.warn(error.message);
      else this.#frame.say("Stopped.");
    } finally {
      for (const column of this.#columns) column.stop();
      this.#compare();
      // Where the stream was left before its end, nobody reads on.
      this.#stop.abort();
      this.#stop = null;
      this.#working(false);
    }
  }

  #working(busy) {
    const held = document.activeElement;
    this.#halt.disabled = !busy;
    this.#ask.disabled = busy;
    // A button that can no longer be pressed must not keep the focus.
    if (busy && held === this.#ask) this.#halt.focus();
    else if (!busy && held === this.#halt) this.#ask.focus();
  }

  /** Tell screen readers what went wrong with a column, and what is to be known of it. */
  #announce({ letter }, { type, text }) {
    if (type === "notice") this.#frame.say(`Column ${letter}: ${text}`);
    if (type !== "failed") return;
    const failed = this.#columns.filter(({ failure }) => failure !== null);
    // All of them: what is said at once may replace what was said a moment ago.
    this.#frame.say(failed.map((one) => `Column ${one.letter} failed: ${one.failure}`).join(" "), true);
  }

  #offerViews({ reference }) {
    this.#tools.hidden = false;
    this.#reference = nameReference(reference);
    fillSelect(this.#view, [["", viewsOf(this.#reference)]]);
    const others = this.#columns.map(({ letter, id }, at) => [String(at), `${letter}: ${id}`]);
    fillSelect(this.#other, [["", others]]);
    this.#show();
  }

  #show() {
    const view = this.#view.value;
    this.#otherField.hidden = view !== "words";
    const shades = legend(view, this.#reference).map(([look, words]) =>
      h("li", {}, h(`span.shade.${look}`, { "aria-hidden": "true" }, "ab"), " ", words),
    );
    this.#legend.replaceChildren(...shades);
    for (const column of this.#columns) column.show(view, this.#columns[Number(this.#other.value)]);
  }

  /** Where words are compared, each answer that becomes whole changes what differs. */
  #compare() {
    if (this.#view.value === "words") this.#show();
  }
}

/** Say how it ended, for those who do not see the columns. */
function outcome(columns) {
  const failed = columns.filter(({ failure }) => failure !== null).map(({ letter }) => letter);
  if (failed.length === 0) return "The answers are whole.";
  const named = failed.length === 1 ? `Column ${failed[0]} failed.` : `Columns ${failed.join(", ")} failed.`;
  return failed.length === columns.length ? named : `${named} The other answers are whole.`;
}
