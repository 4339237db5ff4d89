/** The first step of a ranking: each output alone, its quality from 1 to 7 and what is true of it. */

import { h, newId, reading } from "./dom.js";
import { check } from "./panels.js";
import { letterOf, place, rankOf } from "./tiers.js";
import { idsOf, unrated, withFlag } from "./work.js";

const SCALE = [1, 2, 3, 4, 5, 6, 7];

/**
 * Make the view of the rating step.
 *
 * @param screen the task's screen: `task`, `work`, `change`, `look`, `flags`.
 */
export function ratingView(screen) {
  const ids = idsOf(screen.task);
  const root = h("section.rating");
  let shown = null;
  let output = null;

  const sync = (work) => {
    if (shown !== work.at) {
      shown = work.at;
      output = outputForm(screen, ids, ids[shown]);
      root.replaceChildren(output.root);
    }
    output.sync(work);
  };

  const keydown = (event) => {
    if (event.altKey) return false;
    const at = ids.findIndex((id) => letterOf(ids, id) === event.key.toUpperCase());
    if (at >= 0) screen.look({ at });
    const rating = /^(?:Digit|Numpad)([1-7])$/.exec(event.code)?.[1];
    const rated = rating !== undefined && !event.shiftKey;
    if (rated) output.rate(Number(rating));
    return rated || at >= 0;
  };

  return { root, sync, keydown, focus: () => output.heading.focus({ preventScroll: true }) };
}

/** Make the row of outputs and steps: where one is, what is rated, and a way to each. */
export function stepper(screen) {
  const ids = idsOf(screen.task);
  const outputs = ids.map((id, at) =>
    h("button.step", { on: { click: () => screen.look({ step: "rate", at }) } }, letterOf(ids, id)),
  );
  const rank = h("button.step.wide", { on: { click: () => screen.toRanking() } }, "Rank");
  const items = [...outputs, rank].map((button) => h("li", {}, button));
  const root = h("nav.steps", { "aria-label": "Steps of this task" }, h("ol", {}, items));

  const sync = (work) => {
    const open = unrated(screen.task, work);
    for (const [at, button] of outputs.entries()) {
      const rating = work.ratings[ids[at]];
      const current = work.step === "rate" && work.at === at;
      mark(button, current, rating !== undefined);
      const state = rating === undefined ? "not rated yet" : `rated ${rating} of 7`;
      button.setAttribute("aria-label", `Output ${letterOf(ids, ids[at])}, ${state}`);
    }
    mark(rank, work.step === "rank", false);
    rank.setAttribute("aria-disabled", String(open.length > 0));
  };
  return { root, sync };
}

function mark(button, current, done) {
  if (current) button.setAttribute("aria-current", "step");
  else button.removeAttribute("aria-current");
  button.classList.toggle("done", done);
}

function outputForm(screen, ids, id) {
  const letter = letterOf(ids, id);
  const text = screen.task.completions.find((completion) => completion.id === id).text;
  const headingId = newId("output");
  const heading = h(
    "h2",
    { id: headingId, tabindex: "-1" },
    h("span.letter", {}, letter),
    ` Output ${ids.indexOf(id) + 1} of ${ids.length}`,
  );
  const standing = h("p.quiet.standing");
  const rate = (rating) => {
    const ratings = { ...screen.work.ratings, [id]: rating };
    screen.change({ ...screen.work, ratings }, { say: `Output ${letter} rated ${rating} of 7` });
  };
  const scale = likert(rate);
  const boxes = screen.flags.map((question) =>
    check(question, false, (yes) => {
      const flags = withFlag(screen.work.flags[id] ?? {}, question.name, yes);
      screen.change({ ...screen.work, flags: { ...screen.work.flags, [id]: flags } });
    }),
  );
  const root = h(
    "div.output-form",
    {},
    h(
      "article.output",
      { "aria-labelledby": headingId },
      h("header", {}, heading, standing),
      reading(text, { limit: 12_000, what: `output ${letter}` }),
    ),
    scale.root,
    h(
      "fieldset.flags",
      {},
      h("legend", {}, "What is true of this output?"),
      h("div.checks", {}, boxes.map((box) => box.root)),
    ),
  );
  const sync = (work) => {
    scale.sync(work.ratings[id] ?? null);
    for (const [at, { input }] of boxes.entries()) {
      input.checked = work.flags[id]?.[screen.flags[at].name] === true;
    }
    const ranked = rankOf(work.tiers, id) !== null;
    standing.textContent = ranked ? `Now ${place(ids, work.tiers, id)}` : "";
  };
  return { root, heading, sync, rate };
}

function likert(rate) {
  const name = newId("likert");
  const inputs = SCALE.map((rating) =>
    h("input", {
      type: "radio",
      name,
      value: String(rating),
      on: { change: () => rate(rating) },
    }),
  );
  const ends = { 1: ", very bad", 7: ", very good" };
  const choices = inputs.map((input, at) =>
    h(
      "label.point",
      {},
      input,
      h("span", {}, String(SCALE[at]), h("span.visually-hidden", {}, ends[SCALE[at]] ?? "")),
    ),
  );
  const root = h(
    "fieldset.likert",
    {},
    h("legend", {}, "Overall quality"),
    h("div.scale", {}, choices),
    h("div.ends", { "aria-hidden": "true" }, h("span", {}, "very bad"), h("span", {}, "very good")),
  );
  const sync = (rating) => {
    for (const [at, input] of inputs.entries()) input.checked = SCALE[at] === rating;
  };
  return { root, sync };
}
