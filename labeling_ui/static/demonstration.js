/** Write the answer that an assistant should give. */

import { h, newId } from "./dom.js";

/**
 * Make the view of a demonstration.
 *
 * @param screen the task's screen: `work`, `change`.
 */
export function demonstrationView(screen) {
  const id = newId("answer");
  const area = writingArea({ id, rows: 12, class: "writing tall" }, () =>
    screen.change({ ...screen.work, text: area.input.value }, { kind: "text" }),
  );
  const root = h(
    "section.demonstration",
    {},
    h("h2", {}, h("label", { for: id }, "Your answer")),
    h("p.help", {}, "Write what a good assistant would answer: helpful, true and harmless."),
    area.root,
  );
  return { root, sync: (work) => area.sync(work.text), keydown: () => false, focus: () => area.input.focus() };
}

/** Make a text area that grows with its text and counts it. */
export function writingArea(attributes, onInput) {
  const count = h("p.count");
  const input = h("textarea", {
    class: "writing",
    dir: "auto",
    spellcheck: "true",
    ...attributes,
    on: {
      input: () => {
        tally(input, count);
        onInput();
      },
    },
  });
  const sync = (text) => {
    if (input.value !== text) input.value = text;
    tally(input, count);
  };
  tally(input, count);
  return { input, root: h("div.writing-area", {}, input, count), sync };
}

function tally(input, count) {
  const words = input.value.split(/\s+/).filter(Boolean).length;
  const characters = [...input.value].length;
  count.textContent = `${plural(words, "word")} · ${plural(characters, "character")}`;
}

function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
