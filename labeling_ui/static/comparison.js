/** Two answers side by side, blind: A is better, a tie, or B is better. */

import { h, newId, reading } from "./dom.js";
import { letterOf } from "./tiers.js";
import { idsOf } from "./work.js";

/**
 * Make the view of a comparison.
 *
 * @param screen the task's screen: `task`, `work`, `change`.
 */
export function comparisonView(screen) {
  const ids = idsOf(screen.task);
  const [a, b] = ids;
  const verdicts = [
    { key: "A", label: "A is better", tiers: [[a], [b]] },
    { key: "=", label: "Tie", tiers: [[a, b]] },
    { key: "B", label: "B is better", tiers: [[b], [a]] },
  ];
  const answers = screen.task.completions.map((completion) => answerPanel(ids, completion));
  const name = newId("verdict");
  const choose = ({ label, tiers }) => screen.change({ ...screen.work, tiers }, { say: label });
  const inputs = verdicts.map((verdict) =>
    h("input", { type: "radio", name, value: verdict.key, on: { change: () => choose(verdict) } }),
  );
  const choices = verdicts.map(({ label }, at) => h("label.verdict", {}, inputs[at], h("span", {}, label)));
  const legend = h("legend", {}, "Which answer is better?");
  const root = h(
    "section.comparison",
    {},
    h("div.answers", {}, answers),
    h("fieldset.verdicts", {}, legend, h("div.scale", {}, choices)),
  );

  const sync = (work) => {
    for (const [at, { tiers }] of verdicts.entries()) {
      inputs[at].checked = JSON.stringify(tiers) === JSON.stringify(work.tiers);
      choices[at].classList.toggle("chosen", inputs[at].checked);
    }
    for (const [at, answer] of answers.entries()) {
      answer.classList.toggle("better", work.tiers.length === 2 && work.tiers[0][0] === ids[at]);
    }
  };

  const keydown = (event) => {
    const verdict = verdicts.find(({ key }) => key === event.key.toUpperCase());
    if (verdict && !event.altKey) choose(verdict);
    return verdict !== undefined && !event.altKey;
  };

  return { root, sync, keydown, focus: () => answers[0].querySelector("h2").focus({ preventScroll: true }) };
}

function answerPanel(ids, { id, text }) {
  const headingId = newId("answer");
  const letter = letterOf(ids, id);
  return h(
    "article.output",
    { "aria-labelledby": headingId },
    h("h2", { id: headingId, tabindex: "-1" }, h("span.letter", {}, letter), ` Answer ${letter}`),
    reading(text, { limit: 12_000, what: `answer ${letter}` }),
  );
}
