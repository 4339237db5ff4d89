/** The tab of saved prompts. */

import { h } from "../dom.js";
import { get } from "./api.js";

const ROLES = { system: "System", user: "User", assistant: "Assistant" };

export class Regression {
  #frame;
  #use;
  #list = h("ol.saved");
  #where = h("div.where");

  /** @param use called with the turns of a prompt that somebody wants to ask. */
  constructor(frame, use) {
    this.#frame = frame;
    this.#use = use;
    this.root = h("div.regression", {}, this.#where, this.#list);
  }

  async open() {
    await this.#frame.attempt(async () => {
      const { saved, file } = await get("/prompts");
      const count = saved.length === 1 ? "One prompt is saved" : `${saved.length} prompts are saved`;
      const empty = "No prompt is saved yet. Save one beside the answers that made it interesting.";
      this.#where.replaceChildren(
        h("p", {}, saved.length ? `${count}. Have every stage answer them:` : empty),
        saved.length ? h("pre", { tabindex: "0" }, `evaluate:\n  prompts: [${JSON.stringify(file)}]`) : "",
      );
      this.#list.replaceChildren(...saved.map((messages) => this.#item(messages)));
    });
  }

  #item(messages) {
    const turns = messages.map(({ role, content }) =>
      h(
        "div.turn",
        {},
        messages.length > 1 ? h("p.role", {}, ROLES[role]) : null,
        h("p.words", { dir: "auto" }, content),
      ),
    );
    return h("li", {}, turns, h("button.link", { on: { click: () => this.#use(messages) } }, "Ask this"));
  }
}
