/** One answer: its tokens as they come, shaded by their figures; its words, compared with another's. */

import { h, set } from "../dom.js";
import { diffWords, likeness } from "./diff.js";
import { describe, number, percent, shift, surprise, visible } from "./shading.js";

const ENDS = { eos: "ended itself", length: "cut at the limit", stop: "ended at a stop string" };

export class Answer {
  #words = h("div.words", { dir: "auto" });
  #figures = h("dl.figures");
  #view = "probability";
  #other = null;
  tokens = [];
  finished = null;
  stopped = false;

  /**
   * @param name such as "Answer 2 of 4 of column A".
   * @param look called with the index of a token that somebody wants to know more of.
   */
  constructor(name, look) {
    this.root = h("article.answer", { "aria-label": name }, this.#words, this.#figures);
    this.#words.addEventListener("click", (event) => {
      const at = indexOf(event.target);
      if (at !== null) look(at);
    });
    this.#words.addEventListener("keydown", (event) => this.#move(event, look));
  }

  /** What the model has written. */
  get text() {
    return this.finished ? this.finished.text : this.tokens.map(({ text }) => text).join("");
  }

  /** Take the next token. */
  add(token) {
    this.tokens.push(token);
    if (this.#shaded) this.#words.append(this.#span(token, this.tokens.length - 1));
    else this.#words.append(token.text);
  }

  /** Take what is known once the answer is whole. */
  finish(event) {
    this.finished = event;
    this.#showFigures();
    this.draw();
  }

  /** Note that no more will come. */
  stop() {
    if (this.finished) return;
    this.stopped = true;
    this.#showFigures();
  }

  /**
   * Show it in another way.
   *
   * @param view "probability", "base", "words" or "plain".
   * @param other the answer whose words are compared with these, or null.
   */
  show(view, other) {
    this.#view = view;
    this.#other = other;
    this.draw();
  }

  draw() {
    if (this.#shaded) {
      this.#words.replaceChildren(...this.tokens.map((token, at) => this.#span(token, at)));
    } else if (this.#view === "words" && this.#other) {
      this.#words.replaceChildren(...diffWords(this.#other.text, this.text).map(part));
    } else {
      this.#words.replaceChildren(this.text);
    }
    this.#showFigures();
  }

  /** Give the focus back to a token. */
  focus(at) {
    this.#focus(at);
  }

  get #shaded() {
    return this.#view === "probability" || this.#view === "base";
  }

  #span(token, at) {
    const look = this.#view === "base" ? baseLook(token) : `p${surprise(token.logprob)}`;
    return h(
      `span.token.${look}`,
      {
        role: "button",
        tabindex: at === 0 ? "0" : "-1",
        "data-at": String(at),
        "aria-label": describe(token),
        title: describe(token),
      },
      token.text === "" ? this.#mark(at) : token.text,
    );
  }

  /** What stands for a token that adds no text: the end, or the first bytes of a character. */
  #mark(at) {
    const isEnd = this.finished?.finish_reason === "eos" && at === this.tokens.length - 1;
    return isEnd ? visible("") : "·";
  }

  /** Move among the tokens by arrows: the answer is one stop of the Tab key. */
  #move(event, look) {
    const at = indexOf(event.target);
    if (at === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.tokens.length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (event.key === "Enter" || event.key === " ") look(at);
    else if (to !== undefined) this.#focus(Math.max(0, Math.min(last, to)));
    else return;
    event.preventDefault();
  }

  #focus(at) {
    for (const one of this.#words.querySelectorAll('[tabindex="0"]')) set(one, "tabindex", "-1");
    const token = this.#words.querySelector(`[data-at="${at}"]`);
    if (!token) return;
    set(token, "tabindex", "0");
    token.focus();
  }

  #showFigures() {
    if (!this.finished) {
      this.#figures.replaceChildren(...(this.stopped ? figure("Length", `${this.tokens.length} tokens, stopped`) : []));
      return;
    }
    const { score, tokens, kl, log_ratio, logprob, finish_reason } = this.finished;
    const rows = [["Length", `${tokens} ${tokens === 1 ? "token" : "tokens"}, ${ENDS[finish_reason]}`]];
    if (score !== null) rows.unshift(["Score", number(score)]);
    if (kl !== null) rows.push(["KL to the base", `${number(kl)} nats (sampled ${number(log_ratio)})`]);
    const mean = logprob === null ? null : logprob / Math.max(1, this.tokens.length);
    rows.push(["Mean probability", mean === null ? "–" : percent(Math.exp(mean))]);
    if (this.#view === "words" && this.#other) {
      rows.push(["Words in common", percent(likeness(this.#other.text, this.text))]);
    }
    this.#figures.replaceChildren(...rows.flatMap(([name, value]) => figure(name, value)));
  }
}

function figure(name, value) {
  return [h("div", {}, h("dt", {}, name), h("dd", {}, value))];
}

function indexOf(target) {
  const at = target.closest?.("[data-at]")?.dataset.at;
  return at === undefined ? null : Number(at);
}

function baseLook(token) {
  const steps = shift(token);
  if (steps === null || steps === 0) return "b0";
  return steps > 0 ? `more${steps}` : `less${-steps}`;
}

function part({ kind, text }) {
  if (kind === "same") return text;
  return h(kind === "added" ? "ins" : "del", {}, text);
}
