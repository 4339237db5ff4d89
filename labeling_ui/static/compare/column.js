/** A column: one model's answers to the prompt, and what it would have said next. */

import { h, newId } from "../dom.js";
import { Answer } from "./answer.js";
import { post } from "./api.js";
import { nextPanel } from "./next.js";
import { nameReference, number } from "./shading.js";

export class Column {
  #state = h("p.state");
  #notices = h("div.told");
  #means = h("p.means");
  #answers;
  #holders;
  #asked;
  #reference;

  /**
   * @param letter A to D.
   * @param id the model's.
   * @param asked what was asked: `messages`, `samples`, `reference`.
   */
  constructor(letter, id, asked) {
    this.letter = letter;
    this.id = id;
    this.#asked = asked;
    this.#reference = nameReference(asked.reference);
    const heading = newId("column");
    this.#answers = Array.from({ length: asked.samples }, (_, at) => {
      const name = asked.samples > 1 ? `Answer ${at + 1} of column ${letter}` : `Answer of column ${letter}`;
      return new Answer(name, this.#reference, (token) => this.#look(at, token));
    });
    this.#holders = this.#answers.map(({ root }, at) =>
      h("div.holder", {}, asked.samples > 1 ? h("h3", {}, `Answer ${at + 1}`) : null, root),
    );
    this.root = h(
      "section.side",
      { "aria-labelledby": heading },
      h("h2", { id: heading }, h("span.letter", {}, letter), " ", id),
      this.#state,
      this.#notices,
      this.#means,
      this.#holders,
    );
    this.#say("Waiting…");
  }

  get answers() {
    return this.#answers;
  }

  /** Whether all answers are whole, or none will come. */
  done = false;

  /** Why the model gave no answers, or null. */
  failure = null;

  /** Take an event of the stream. */
  take(event) {
    const act = {
      queued: () => this.#say(`Waiting: ${event.position} in line.`),
      loading: () => this.#say(`Loading ${event.path} (${megabytes(event.size)})…`),
      notice: () => this.#notices.append(h("p.notice", {}, event.text)),
      token: () => this.#token(event),
      finished: () => this.#finished(event),
      failed: () => this.#failed(event.reason),
    }[event.type];
    act?.();
  }

  /** Note that no more will come. */
  stop() {
    if (this.done) return;
    this.done = true;
    for (const answer of this.#answers) answer.stop();
    this.#say("Stopped.");
  }

  /** Show the answers in another way; `other` is the column that words are compared with. */
  show(view, other) {
    this.#answers.forEach((answer, at) => {
      answer.show(view, other === this ? null : (other?.answers[at] ?? null));
    });
  }

  #token(event) {
    this.#say("Writing…");
    this.#answers[event.sample].add(event);
  }

  #finished(event) {
    this.#answers[event.sample].finish(event);
    const whole = this.#answers.filter(({ finished }) => finished);
    if (whole.length === this.#answers.length) {
      this.done = true;
      this.#say("Done.");
    }
    if (whole.length > 1) this.#means.textContent = means(whole.map(({ finished }) => finished));
  }

  #failed(reason) {
    this.done = true;
    this.failure = reason;
    this.#say("Failed.");
    this.#answers.forEach((answer, at) => {
      answer.stop();
      this.#holders[at].hidden = answer.tokens.length === 0;
    });
    this.#notices.append(h("p.notice.bad", {}, reason));
  }

  #say(words) {
    if (this.#state.textContent !== words) this.#state.textContent = words;
  }

  /** Show what could have come in a token's place. */
  async #look(sample, at) {
    const answer = this.#answers[sample];
    const token = answer.tokens[at];
    const before = answer.tokens.slice(0, at);
    const close = () => {
      panel.root.remove();
      answer.focus(at);
    };
    const panel = nextPanel(before.map(({ text }) => text).join(""), close);
    const holder = this.#holders[sample];
    holder.querySelector(".next")?.remove();
    holder.append(panel.root);
    panel.root.focus();
    try {
      const found = await post("/next", {
        messages: this.#asked.messages,
        model: this.id,
        prefix: before.map(({ id }) => id),
        chosen: token.id,
        reference: this.#asked.reference,
      });
      panel.show(found, this.#reference);
    } catch (error) {
      panel.fail(error.message);
    }
  }
}

function means(finished) {
  const over = (key) => {
    const values = finished.map((one) => one[key]).filter((value) => value !== null);
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  };
  const said = [`Means of ${finished.length} answers: ${number(over("tokens"))} tokens`];
  if (over("score") !== null) said.push(`score ${number(over("score"))}`);
  if (over("kl") !== null) said.push(`KL ${number(over("kl"))} nats`);
  return said.join(", ");
}

function megabytes(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.max(1, Math.round(bytes / 1e6))} MB`;
}
