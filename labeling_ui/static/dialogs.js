/** Dialogs of the board: native ones, so that focus stays inside and returns, and Escape closes. */

import { h, labeled, newId } from "./dom.js";
import { read, write } from "./storage.js";

const KEYS = "steerline.keys";

/** Whether single keys act; a person who speaks or types by accident can turn them off. */
export function singleKeys() {
  return read(KEYS) !== false;
}

/**
 * Open a dialog and wait until it closes.
 *
 * @param host where it stands in the document.
 * @param content `title`, `body` (elements), `actions` (`[{name, label, main}]`, the first one gets
 *   the focus unless the body takes it), `wide`.
 * @returns the name of the action, or null where the dialog was dismissed.
 */
export function openDialog(host, { title, body, actions, wide = false }) {
  const id = newId("dialog");
  const opener = document.activeElement;
  const buttons = actions.map(({ name, label, main }) =>
    h(main ? "button.main" : "button", { value: name ?? "", type: name ? "submit" : "button" }, label),
  );
  const dialog = h(
    wide ? "dialog.wide" : "dialog",
    { "aria-labelledby": id },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id }, title),
      h("div.dialog-body", { tabindex: "0", role: "group", "aria-labelledby": id }, body),
      h("div.dialog-actions", {}, buttons),
    ),
  );
  for (const button of buttons.filter((one) => one.type === "button")) {
    button.addEventListener("click", () => dialog.close(""));
  }
  host.append(dialog);
  dialog.showModal();
  (dialog.querySelector("[autofocus]") ?? buttons[0]).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (opener?.isConnected) opener.focus();
      resolve(dialog.returnValue || null);
    });
  });
}

/** Show the instructions and the keys. */
export function showInstructions(host, instructions) {
  const text = instructions.text.trim() || "The lead has written no instructions yet.";
  return openDialog(host, {
    title: "Instructions",
    body: [
      instructions.version ? h("p.quiet", {}, `Version ${instructions.version}`) : null,
      ...prose(text),
      h("h3", {}, "Keys"),
      keyTable(),
      keySwitch(),
    ],
    actions: [{ label: "Close" }],
    wide: true,
  });
}

/** Ask why a task is passed over; `{reason, comment}` or null. */
export async function askSkip(host, reasons) {
  const comment = h("textarea", { rows: "2", maxlength: "10000" });
  const choices = reasons.map(({ name, label }, index) =>
    h(
      "label.choice",
      {},
      h("input", { type: "radio", name: "reason", value: name, required: true, autofocus: !index }),
      h("span", {}, label),
    ),
  );
  const fields = h("fieldset", {}, h("legend", {}, "Why do you pass over this task?"), choices);
  const action = await openDialog(host, {
    title: "Skip this task",
    body: [fields, labeled("Comment (may stay empty)", comment)],
    actions: [{ label: "Keep the task" }, { name: "skip", label: "Skip it", main: true }],
  });
  if (action !== "skip") return null;
  const reason = fields.querySelector("input:checked").value;
  return { reason, comment: comment.value };
}

/** Ask what is wrong with a prompt; the words or null. */
export async function askReport(host) {
  const reason = h("textarea", { rows: "3", maxlength: "10000", required: true, autofocus: true });
  const action = await openDialog(host, {
    title: "Flag this prompt",
    body: [
      h("p", {}, "The lead will see the prompt and your words. You can go on with the task, or skip it."),
      labeled("What is wrong with the prompt?", reason),
    ],
    actions: [{ label: "Cancel" }, { name: "flag", label: "Flag it", main: true }],
  });
  return action === "flag" && reason.value.trim() ? reason.value : null;
}

/** List contradictions; true where the labeler stands by the judgment. */
export async function askDoubts(host, lines) {
  const action = await openDialog(host, {
    title: lines.length === 1 ? "One thing to check" : `${lines.length} things to check`,
    body: [
      h("p", {}, "Ratings and ranks say different things. Both may be what you mean."),
      h("ul.doubts", {}, lines.map((line) => h("li", {}, line))),
    ],
    actions: [{ label: "Go back and check" }, { name: "submit", label: "Submit as it is", main: true }],
  });
  return action === "submit";
}

/** List the labeler's own work; the id of what is to be edited, or null. */
export async function askHistory(host, done) {
  const kinds = { ranking: "Ranking", comparison: "Comparison", demonstration: "Answer" };
  const rows = done.map((item) =>
    h(
      "li",
      {},
      h(
        "div",
        {},
        h("p.excerpt", { dir: "auto" }, item.excerpt),
        h("p.quiet", {}, `${kinds[item.kind]}, ${when(item.submitted)}${revised(item.revisions)}`),
      ),
      h("button", { type: "submit", value: item.id, "aria-label": `Edit: ${item.excerpt}` }, "Edit"),
    ),
  );
  const list = h("ul.history", {}, rows);
  const id = await openDialog(host, {
    title: "My work",
    body: rows.length ? [list] : [h("p", {}, "Nothing yet. What you submit appears here.")],
    actions: [{ label: "Close" }],
    wide: true,
  });
  return id === null ? null : Number(id);
}

/** Show what a practice task was about. */
export function showFeedback(host, lines) {
  return openDialog(host, {
    title: "How it went",
    body: lines.map((line) => h("p", {}, line)),
    actions: [
      { name: "again", label: "Practice again" },
      { name: "done", label: "Back to work", main: true },
    ],
  });
}

/** Lay out the plain text of the instructions: headings, lists and paragraphs, nothing else. */
export function prose(text) {
  return text
    .split(/\n\s*\n/)
    .filter((block) => block.trim())
    .flatMap((block) => layOut(block.split("\n").filter((line) => line.trim())));
}

function layOut(lines) {
  const laidOut = [];
  for (const line of lines) {
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    const item = /^\s*(?:[-*]|\d+\.)\s+(.*)$/.exec(line);
    const last = laidOut.at(-1);
    if (heading) laidOut.push(h("h3", {}, heading[1]));
    else if (item && last?.tagName === "UL") last.append(h("li", {}, item[1]));
    else if (item) laidOut.push(h("ul", {}, h("li", {}, item[1])));
    else if (last?.tagName === "P") last.append(` ${line.trim()}`);
    else laidOut.push(h("p", {}, line.trim()));
  }
  return laidOut;
}

function keyTable() {
  const rows = [
    [["A", "B", "…"], "go to that output"],
    [["1", "…", "7"], "rate it, or send it to that rank (a tie where somebody is)"],
    [["Shift", "1…9"], "give it that rank alone; the others move down"],
    [["Alt", "↑", "↓"], "move it up or down, to a rank of its own"],
    [["="], "tie it with the rank above; in a comparison, a tie"],
    [["0"], "take it out of the ranking"],
    [["↑", "↓"], "go to the output above or below"],
    [["Enter"], "show all of a long output, or less"],
    [["Ctrl", "Z"], "undo; with Shift, redo"],
    [["Ctrl", "Enter"], "go on, or submit"],
    [["?"], "these instructions; also i"],
  ];
  return h(
    "table.keys",
    {},
    h("tbody", {}, rows.map(([keys, what]) =>
      h("tr", {}, h("th", { scope: "row" }, keys.map((key) => h("kbd", {}, key))), h("td", {}, what)),
    )),
  );
}

function keySwitch() {
  const input = h("input", { type: "checkbox", on: { change: () => write(KEYS, input.checked) } });
  input.checked = singleKeys();
  return h("label.choice", {}, input, h("span", {}, "Single keys act (letters, digits, = and ?)"));
}

function revised(revisions) {
  return revisions > 1 ? `, revision ${revisions}` : "";
}

function when(iso) {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
