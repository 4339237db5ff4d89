/** What is asked: the checkpoints, the prompt, how tokens are drawn, what answers are measured by. */

import { h } from "../dom.js";
import { field, fillSelect, select } from "./parts.js";

const LETTERS = "ABCD";
const NUMBERS = [
  // name, label, value, lowest, highest, step, only where tokens are drawn
  ["temperature", "Temperature", 1, 0.01, 10, 0.01, true],
  ["top_p", "Top-p", 1, 0.01, 1, 0.01, true],
  ["top_k", "Top-k (0 is all)", 0, 0, 100000, 1, true],
  ["samples", "Answers a checkpoint", 1, 1, 8, 1, true],
  ["seed", "Seed", 0, 0, 4294967295, 1, true],
  ["max_new_tokens", "Most tokens", 128, 1, 4096, 1, false],
];

export class Asking {
  #checkpoints = h("div.checkpoints");
  #add = h("button", { on: { click: () => this.#addColumn() } }, "Add a checkpoint");
  #numbers = new Map();
  #turns = h("div.turns");
  #earlier = [];
  #system = h("textarea", { rows: "2" });
  #prompt = h("textarea", { rows: "4" });
  #reference = select([], "");
  #reward = select([], "");
  #models = [];
  #way = select([["", [["greedy", "Greedy: the likeliest token"], ["draw", "Draw tokens at random"]]]], "greedy");

  constructor() {
    for (const [name, label, value, min, max, step] of NUMBERS) {
      const control = h("input", { type: "number", min, max, step, inputmode: step < 1 ? "decimal" : "numeric" });
      control.value = String(value);
      this.#numbers.set(name, { control, root: field(label, control), value });
    }
    this.#way.addEventListener("change", () => this.#followWay());
    const measures = h(
      "div.fields",
      {},
      field("KL to", this.#reference, "The policy that answers are measured from."),
      field("Scored by", this.#reward, "The reward model."),
    );
    this.root = h(
      "div.asking",
      {},
      h("fieldset", {}, h("legend", {}, "Checkpoints"), this.#checkpoints, this.#add),
      h(
        "fieldset",
        {},
        h("legend", {}, "Prompt"),
        this.#turns,
        field("Your message", this.#prompt, "Ctrl + Enter asks."),
        h("details", {}, h("summary", {}, "System message"), field("System message", this.#system)),
      ),
      h(
        "fieldset",
        {},
        h("legend", {}, "Sampling"),
        h("div.fields", {}, field("Tokens", this.#way), [...this.#numbers.values()].map(({ root }) => root)),
        measures,
      ),
    );
    this.#followWay();
  }

  /** Take the models that there are; what is chosen stays, as far as it is still there. */
  fill({ models, defaults, own }) {
    this.#models = models;
    const chosen = this.columns;
    const policies = models.filter(({ kind }) => kind === "policy");
    const start = chosen.length > 0 ? chosen : firstTwo(policies.filter(({ run }) => run === own), policies);
    const [reference, reward] = [this.#reference, this.#reward].map(({ value, options }) => (options.length ? value : "own"));
    this.#checkpoints.replaceChildren();
    for (const id of start) this.#addColumn(id);
    const named = (key) => Object.values(defaults).some((one) => one[key]);
    const each = (key, words) => (named(key) ? [["own", words]] : []);
    fillSelect(this.#reference, [
      ["", [...each("reference", "The base of each run"), ["", "Nothing"]]],
      ...grouped(policies),
    ], reference);
    fillSelect(this.#reward, [
      ["", [...each("reward", "The reward model of each run"), ["", "Nothing"]]],
      ...grouped(models.filter(({ kind }) => kind === "reward")),
    ], reward);
  }

  /** The ids of the models that are chosen, column by column. */
  get columns() {
    return [...this.#checkpoints.querySelectorAll("select")].map(({ value }) => value).filter(Boolean);
  }

  /** The prompt as turns; none of them empty but the last. */
  get messages() {
    const system = this.#system.value.trim() === "" ? [] : [{ role: "system", content: this.#system.value }];
    return [...system, ...this.#earlier, { role: "user", content: this.#prompt.value }];
  }

  /** Show a prompt, to be asked or changed. */
  set messages(messages) {
    const system = messages[0].role === "system" ? messages[0].content : "";
    this.#system.value = system;
    this.#system.closest("details").open = system !== "";
    this.#earlier = messages.slice(system ? 1 : 0, -1);
    this.#prompt.value = messages.at(-1).content;
    this.#showTurns();
  }

  /** What the routes are asked, without the models. */
  get request() {
    const drawn = this.#way.value === "draw";
    const numbers = {};
    for (const [name, { control, value }] of this.#numbers) {
      const given = control.value === "" ? value : Number(control.value);
      numbers[name] = !drawn && name !== "max_new_tokens" ? GREEDY[name] : given;
    }
    return {
      messages: this.messages,
      reference: this.#reference.value,
      reward: this.#reward.value,
      ...numbers,
    };
  }

  /** Say what is missing, or null. */
  get missing() {
    if (this.columns.length === 0) return "Choose a checkpoint first.";
    if (this.#prompt.value.trim() === "") return "Write a prompt first.";
    for (const { control, root } of this.#numbers.values()) {
      if (root.hidden || control.checkValidity()) continue;
      return `${root.querySelector("label").textContent}: ${control.validationMessage}`;
    }
    return null;
  }

  focus() {
    this.#prompt.focus();
  }

  #addColumn(id = "") {
    const groups = grouped(this.#models.filter(({ kind }) => kind === "policy"));
    const list = select(groups, id || (groups[0]?.[1][0][0] ?? ""));
    const remove = h("button.link", { on: { click: () => this.#remove(row) } }, "Remove");
    const row = h("div.checkpoint", {}, field("", list), remove);
    this.#checkpoints.append(row);
    this.#letter();
  }

  #remove(row) {
    row.remove();
    this.#letter();
    this.#add.focus();
  }

  /** Name the columns by their places. */
  #letter() {
    const rows = [...this.#checkpoints.children];
    rows.forEach((row, at) => {
      row.querySelector("label").textContent = `Column ${LETTERS[at]}`;
      row.querySelector("button").setAttribute("aria-label", `Remove column ${LETTERS[at]}`);
      row.querySelector("button").hidden = rows.length === 1;
    });
    this.#add.hidden = rows.length >= LETTERS.length;
  }

  #followWay() {
    const drawn = this.#way.value === "draw";
    for (const [name, , , , , , onlyDrawn] of NUMBERS) {
      this.#numbers.get(name).root.hidden = onlyDrawn && !drawn;
    }
  }

  #showTurns() {
    const clear = () => {
      this.#earlier = [];
      this.#showTurns();
      this.focus();
    };
    const turns = this.#earlier.map(({ role, content }) =>
      h("div.turn", {}, h("p.role", {}, role), h("p.words", { dir: "auto" }, content)),
    );
    const button = h("button.link", { on: { click: clear } }, "Leave out the earlier turns");
    this.#turns.replaceChildren(...(turns.length > 0 ? [...turns, button] : []));
  }
}

const GREEDY = { temperature: 0, top_p: 1, top_k: 0, samples: 1, seed: 0 };

/** Return models as groups of a list, one a run. */
export function grouped(models) {
  const runs = [...new Set(models.map(({ run }) => run))];
  // A list that is closed shows no run.
  const name = ({ id, label }) => [id, runs.length > 1 ? id : label];
  return runs.map((run) => [run, models.filter((one) => one.run === run).map(name)]);
}

/** Return the run's first finished model and its last, variants aside: what one compares first. */
function firstTwo(own, all) {
  const models = own.length > 0 ? own : all;
  const plain = models.filter(({ label }) => !label.includes(", step ") && !label.includes("@"));
  const from = plain.length > 0 ? plain : models;
  return [...new Set([from[0], from.at(-1)])].filter(Boolean).map(({ id }) => id);
}
