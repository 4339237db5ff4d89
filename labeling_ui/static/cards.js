/** One output as a card that can be ranked: by its handle, its buttons, and the list of ranks. */

import { h, icon, iconButton, reading, set } from "./dom.js";
import { append, letterOf, moveDown, moveUp, place, rankOf, sendTo, tieAbove, unplace } from "./tiers.js";

/** How much of an output a card shows at first, in characters. */
const GLANCE = 420;

/**
 * Make a card.
 *
 * @param board what the card acts on: `ids`, `screen`, `move(id, tiers)`.
 * @returns `root`, `handle`, and `sync(work)`.
 */
export function outputCard(board, completion) {
  const { ids, screen } = board;
  const { id, text } = completion;
  const letter = letterOf(ids, id);
  const go = (step) => board.move(id, step(ids, screen.work.tiers, id));

  const handle = h(
    "span.handle",
    { title: "Drag to rank", "aria-hidden": "true" },
    icon("grip"),
    h("span.letter", {}, letter),
  );
  const rated = h("button.chip", {
    title: "Back to the rating",
    on: { click: () => screen.look({ step: "rate", at: ids.indexOf(id) }) },
  });
  const ranks = h("select", { "aria-label": `Rank of output ${letter}` });
  ranks.addEventListener("change", () => {
    const rank = Number(ranks.value);
    go(rank ? (...where) => sendTo(...where, rank) : unplace);
  });
  const last = h(
    "button.small",
    { "aria-label": `Rank next: output ${letter}`, on: { click: () => go(append) } },
    "Rank next",
  );
  const up = iconButton("up", `Move output ${letter} up`, () => go(moveUp));
  const down = iconButton("down", `Move output ${letter} down`, () => go(moveDown));
  const tie = iconButton("tie", `Tie output ${letter} with the rank above`, () => go(tieAbove));
  const remarks = h("p.quiet.remarks");

  const root = h(
    "div.card",
    { role: "group", tabindex: "-1", "data-id": id, "data-letter": letter },
    h("header", {}, handle, rated, h("div.moves", {}, last, up, down, tie, ranks)),
    remarks,
    reading(text, { limit: GLANCE, what: `output ${letter}` }),
  );

  const sync = (work) => {
    const rating = work.ratings[id];
    const rank = rankOf(work.tiers, id);
    const count = work.tiers.length;
    const alone = rank !== null && work.tiers[rank - 1].length === 1;
    set(root, "aria-label", `Output ${letter}, ${place(ids, work.tiers, id)}, rated ${rating} of 7`);
    rated.textContent = `${rating}/7`;
    set(rated, "aria-label", `${rating}/7: change the rating of output ${letter}`);
    remarks.textContent = trueOf(screen.flags, work.flags[id] ?? {});
    last.hidden = rank !== null;
    for (const button of [up, down]) button.hidden = rank === null;
    up.disabled = alone && rank === 1;
    down.disabled = alone && rank === count;
    tie.disabled = rank === 1 || count === 0;
    ranks.replaceChildren(...rankOptions(ids, work.tiers, id));
    ranks.value = String(rank ?? 0);
  };
  return { root, handle, sync };
}

function rankOptions(ids, tiers, id) {
  const options = [h("option", { value: "0" }, "no rank")];
  for (const [index, tier] of tiers.entries()) {
    const others = tier.includes(id) ? [] : tier.map((other) => letterOf(ids, other));
    const company = others.length ? ` with ${others.join(", ")}` : "";
    options.push(h("option", { value: String(index + 1) }, `rank ${index + 1}${company}`));
  }
  const alone = tiers.at(-1)?.length === 1 && tiers.at(-1)[0] === id;
  if (!alone) options.push(h("option", { value: String(tiers.length + 1) }, `rank ${tiers.length + 1}, last`));
  return options;
}

function trueOf(questions, flags) {
  return questions
    .filter(({ name }) => flags[name])
    .map(({ label }) => label)
    .join(" · ");
}
