/** One answer: its tokens as they come, shaded by their figures; its words, compared with another's. */

import { h, set } from "../dom.js";
import { diffWords, likeness } from "./diff.js";
import { describe, look, number, percent, visible } from "./shading.js";

const ENDS = { eos: "ended itself", length: "cut at the limit", stop: "ended at a stop string" };

export class Answer {
  #words = h("div.words", { dir: "auto" });
  #figures = h("dl.figures");
  #reference;
  #view = "probability";
  #other = null;
  #compared = null;
  #spans = [];
  /** The token that the Tab key reaches. */
  #at = 0;
  tokens = [];
  finished = null;
  stopped = false;

  /**
   * @param name such as "Answer 2 of 4 of column A".
   * @param reference what its tokens are compared with, such as "the base"; null where with nothing.
   * @param ask called with the index of a token that somebody wants to know more of.
   */
  constructor(name, reference, ask) {
    this.#reference = reference;
    this.root = h("article.answer", { "aria-label": name, tabindex: "-1" }, this.#words, this.#figures);
    this.#words.addEventListener("click", (event) => {
      const at = indexOf(event.target);
      if (at !== null) ask(at);
    });
    this.#words.addEventListener("keydown", (event) => this.#move(event, ask));
  }

  /** What the model has written. */
  get text() {
    return this.finished ? this.finished.text : this.tokens.map(({ text }) => text).join("");
  }

  /** Whether no more comes, and there is something to compare with. */
  get comparable() {
    return this.finished !== null || (this.stopped && this.tokens.length > 0);
  }

  /** Take the next token. */
  add(token) {
    this.tokens.push(token);
    this.#words.append(this.#shaded ? this.#span(this.tokens.length - 1) : token.text);
  }

  /** Take what is known once the answer is whole. */
  finish(event) {
    this.finished = event;
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
    if (this.#shaded) this.#drawTokens();
    else this.#words.replaceChildren(...(this.#difference?.map(part) ?? [this.text]));
    this.#showFigures();
  }

  /** Give the focus back to a token, or to the answer where it shows none. */
  focus(at) {
    this.#focus(at);
    if (!this.#words.contains(document.activeElement)) this.root.focus();
  }

  get #shaded() {
    return this.#view === "probability" || this.#view === "base";
  }

  get #comparing() {
    return this.#view === "words" && this.comparable && Boolean(this.#other?.comparable);
  }

  /** What differs from the other answer; null where nothing is compared or both are too long. */
  get #difference() {
    if (!this.#comparing) return null;
    const [base, text] = [this.#other.text, this.text];
    if (this.#compared?.base !== base || this.#compared.text !== text) {
      this.#compared = { base, text, parts: diffWords(base, text) };
    }
    return this.#compared.parts;
  }

  /** Tokens that are there already are changed where they stand: one of them may have the focus. */
  #drawTokens() {
    const spans = this.tokens.map((_, at) => this.#span(at));
    const there = spans.every(({ parentNode }) => parentNode === this.#words);
    if (!there) this.#words.replaceChildren(...spans);
  }

  #span(at) {
    const token = this.tokens[at];
    this.#spans[at] ??= h("span", { role: "button", tabindex: at === this.#at ? "0" : "-1", "data-at": String(at) });
    const span = this.#spans[at];
    const told = describe(token, this.#reference);
    const text = token.text === "" ? this.#mark(at) : token.text;
    span.className = `token ${look(token, this.#view)}`;
    set(span, "aria-label", told);
    set(span, "title", told);
    if (span.textContent !== text) span.textContent = text;
    return span;
  }

  /** What stands for a token that adds no text: the end, or the first bytes of a character. */
  #mark(at) {
    const isEnd = this.finished?.finish_reason === "eos" && at === this.tokens.length - 1;
    return isEnd ? visible("") : "·";
  }

  /** Move among the tokens by arrows: the answer is one stop of the Tab key. */
  #move(event, ask) {
    const at = indexOf(event.target);
    if (at === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.tokens.length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (event.key === "Enter" || event.key === " ") ask(at);
    else if (to !== undefined) this.#focus(Math.max(0, Math.min(last, to)));
    else return;
    event.preventDefault();
  }

  #focus(at) {
    set(this.#spans[this.#at], "tabindex", "-1");
    this.#at = at;
    set(this.#spans[at], "tabindex", "0");
    this.#spans[at].focus();
  }

  #showFigures() {
    const rows = this.finished ? this.#measured() : [];
    if (this.stopped) rows.push(["Length", `${this.tokens.length} tokens, stopped`]);
    if (this.#comparing) {
      const parts = this.#difference;
      rows.push(["Words in common", parts === null ? "too long to compare" : percent(likeness(parts))]);
    }
    this.#figures.replaceChildren(...rows.map(figure));
  }

  #measured() {
    const { score, tokens, kl, log_ratio, logprob, finish_reason } = this.finished;
    const rows = [["Length", `${tokens} ${tokens === 1 ? "token" : "tokens"}, ${ENDS[finish_reason]}`]];
    if (score !== null) rows.unshift(["Score", number(score)]);
    if (kl !== null) rows.push([`KL to ${this.#reference}`, `${number(kl)} nats (sampled ${number(log_ratio)})`]);
    else if (this.#reference !== null) rows.push([`KL to ${this.#reference}`, "not measured"]);
    const mean = logprob === null ? null : logprob / Math.max(1, this.tokens.length);
    rows.push(["Mean probability", mean === null ? "–" : percent(Math.exp(mean))]);
    return rows;
  }
}

function figure([name, value]) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

function indexOf(target) {
  const at = target.closest?.("[data-at]")?.dataset.at;
  return at === undefined ? null : Number(at);
}

function part({ kind, text }) {
  if (kind === "same") return text;
  return h(kind === "added" ? "ins" : "del", {}, text);
}
