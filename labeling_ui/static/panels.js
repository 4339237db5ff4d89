/** The parts that every kind of task shows: the prompt, and what is to be said about it. */

import { h, labeled, newId, reading } from "./dom.js";
import { withFlag } from "./work.js";

const ROLES = { system: "System", user: "User", assistant: "Assistant" };

/** Show the prompt: one text, or the turns of a conversation. */
export function promptPanel(messages) {
  const id = newId("prompt");
  const single = messages.length === 1;
  const turns = messages.map(({ role, content }) =>
    h(
      `div.turn.${role}`,
      {},
      single ? null : h("p.role", {}, ROLES[role] ?? role),
      reading(content, { what: "the prompt" }),
    ),
  );
  return h("section.prompt", { "aria-labelledby": id, tabindex: "0" }, h("h2", { id }, "Prompt"), turns);
}

/** Make a checkbox with its explanation beneath. */
export function check({ label, help }, checked, onChange) {
  const helpId = newId("help");
  const input = h("input", {
    type: "checkbox",
    "aria-describedby": help ? helpId : null,
    on: { change: () => onChange(input.checked) },
  });
  input.checked = checked;
  const name = h("span.choice-name", {}, label);
  const row = h("label.choice", {}, input, name);
  return { input, root: h("div.check", {}, row, help ? h("p.help", { id: helpId }, help) : null) };
}

/**
 * Ask what concerns the whole task: whether no output will do, the prompt's annotations, a comment.
 *
 * @param screen the task's screen: `work`, `change(next, {kind})`.
 */
export function notesPanel(screen, promptFlags) {
  const none = screen.task.completions.length ? noneBox(screen) : null;
  const boxes = promptFlags.map((question) =>
    check(question, false, (yes) => {
      const flags = withFlag(screen.work.prompt_flags, question.name, yes);
      screen.change({ ...screen.work, prompt_flags: flags });
    }),
  );
  const count = h("span.count");
  const comment = h("textarea", {
    rows: "3",
    dir: "auto",
    on: {
      input: () => screen.change({ ...screen.work, comment: comment.value }, { kind: "comment" }),
    },
  });
  const about = h(
    "details.about",
    {},
    h("summary", {}, "About the prompt ", count),
    h(
      "fieldset",
      {},
      h("legend.visually-hidden", {}, "What is true of the prompt?"),
      h("div.checks", {}, boxes.map((box) => box.root)),
    ),
  );
  const root = h("div.notes", {}, none?.root, about, labeled("Comment (may stay empty)", comment));
  const sync = (work) => {
    if (none) none.input.checked = work.none_acceptable;
    for (const [at, { input }] of boxes.entries()) {
      input.checked = work.prompt_flags[promptFlags[at].name] === true;
    }
    const chosen = Object.keys(work.prompt_flags).length;
    count.textContent = chosen ? `${chosen} chosen` : "";
    if (comment.value !== work.comment) comment.value = work.comment;
  };
  return { root, sync };
}

function noneBox(screen) {
  const label =
    screen.task.kind === "comparison"
      ? { label: "Both are bad", help: "Neither would do as an answer. Say all the same which is better." }
      : { label: "None is acceptable", help: "No output would do as an answer. Rank them all the same." };
  return check(label, false, (yes) => screen.change({ ...screen.work, none_acceptable: yes }));
}
