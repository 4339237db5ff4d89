/**
 * Write a prompt of one's own with its answer. Labelers were asked for three kinds (Ouyang et al.
 * 2022, 3.2): any task, an instruction with several queries and answers, and a task for a use case
 * that users have named.
 */

import { writingArea } from "./demonstration.js";
import { h, labeled, newId } from "./dom.js";
import { read, remove, write } from "./storage.js";

const KEPT = "steerline.own-prompt";
const FEWEST_PAIRS = 2;
const BLANK = {
  kind: "plain",
  use_case: "",
  instruction: "",
  pairs: [
    { query: "", answer: "" },
    { query: "", answer: "" },
  ],
  prompt: "",
  text: "",
  comment: "",
};
const KINDS = [
  { name: "plain", label: "Plain", help: "Any task. Make them as different from each other as you can." },
  {
    name: "few_shot",
    label: "Few-shot",
    help: "An instruction and several queries with their answers, then one more query.",
  },
  { name: "user_based", label: "User-based", help: "A task that somebody with a certain use in mind would set." },
];

/**
 * Make the screen.
 *
 * @param on `submit(body)`, `leave()`, `warn(text)`.
 */
export function ownPromptScreen(on) {
  const work = { ...structuredClone(BLANK), ...read(KEPT) };
  const kept = () => write(KEPT, work);
  const form = h("div.own-prompt");

  const draw = () => {
    const few = work.kind === "few_shot";
    const fields = [
      kindChoice(work, () => {
        kept();
        draw();
        form.querySelector("input:checked").focus();
      }),
      work.kind === "user_based" ? area(work, "use_case", "What do they use the assistant for?", 2, kept) : null,
      few ? area(work, "instruction", "Instruction", 3, kept) : null,
      few ? pairList(work, kept, draw) : null,
      area(work, "prompt", few ? "The query to answer" : "Prompt", few ? 3 : 6, kept),
      area(work, "text", "Your answer to it", 8, kept),
      area(work, "comment", "Comment (may stay empty)", 2, kept),
    ];
    form.replaceChildren(...fields.filter(Boolean));
  };
  draw();

  const submit = () => {
    const lack = lacking(work);
    if (lack) on.warn(lack);
    else on.submit(toPrompt(work));
  };
  const root = h(
    "div.screen",
    {},
    form,
    h(
      "div.bar",
      { role: "group", "aria-label": "Prompt of your own" },
      h("div.left", {}, h("p.state", {}, "Kept in this browser until you submit")),
      h(
        "div.right",
        {},
        h("button.plain", { on: { click: on.leave } }, "Back to work"),
        h("button.main", { title: "Ctrl+Enter", on: { click: submit } }, "Submit"),
      ),
    ),
  );
  return { root, advance: submit };
}

/** Forget the prompt: the server has it. */
export function forgetOwnPrompt() {
  remove(KEPT);
}

/** Return what the route takes. A few-shot prompt is a conversation; its instruction opens it. */
export function toPrompt(work) {
  const turns = [];
  const opening = work.kind === "few_shot" ? `${work.instruction.trim()}\n\n` : "";
  for (const { query, answer } of work.kind === "few_shot" ? work.pairs : []) {
    turns.push({ role: "user", content: query.trim() }, { role: "assistant", content: answer.trim() });
  }
  turns.push({ role: "user", content: work.prompt.trim() });
  turns[0] = { ...turns[0], content: opening + turns[0].content };
  const use = work.kind === "user_based" ? `Use case: ${work.use_case.trim()}\n` : "";
  return { kind: work.kind, messages: turns, text: work.text, comment: `${use}${work.comment}`.trim() };
}

/** Say what is missing, or return null. */
export function lacking(work) {
  if (work.kind === "user_based" && !work.use_case.trim()) return "Name the use case first.";
  if (work.kind === "few_shot") {
    if (!work.instruction.trim()) return "Write the instruction first.";
    const open = work.pairs.findIndex(({ query, answer }) => !query.trim() || !answer.trim());
    if (open >= 0) return `Fill in example ${open + 1} first.`;
  }
  if (!work.prompt.trim()) return "Write the prompt first.";
  return work.text.trim() ? null : "Write an answer first.";
}

function kindChoice(work, onChange) {
  const name = newId("kind");
  const choices = KINDS.map((kind) => {
    const change = () => {
      work.kind = kind.name;
      onChange();
    };
    const input = h("input", { type: "radio", name, value: kind.name, on: { change } });
    input.checked = work.kind === kind.name;
    return h("label.choice", {}, input, h("span", {}, kind.label));
  });
  const { help } = KINDS.find((kind) => kind.name === work.kind);
  return h("fieldset.kinds", {}, h("legend", {}, "Kind of prompt"), h("div.row", {}, choices), h("p.help", {}, help));
}

function area(record, field, label, rows, onChange) {
  const id = newId(field);
  const writing = writingArea({ id, rows }, () => {
    record[field] = writing.input.value;
    onChange();
  });
  writing.sync(record[field]);
  return h("div.field", {}, h("label.field-name", { for: id }, label), writing.root);
}

function pairList(work, kept, draw) {
  const pairs = work.pairs.map((pair, at) => {
    const drop = () => {
      work.pairs.splice(at, 1);
      kept();
      draw();
    };
    return h(
      "fieldset.pair",
      {},
      h("legend", {}, `Example ${at + 1}`),
      small(pair, "query", "Query", kept),
      small(pair, "answer", "Answer", kept),
      work.pairs.length > FEWEST_PAIRS
        ? h("button.plain", { on: { click: drop } }, `Remove example ${at + 1}`)
        : null,
    );
  });
  const add = () => {
    work.pairs.push({ query: "", answer: "" });
    kept();
    draw();
  };
  return h("div.pairs", {}, pairs, h("button", { on: { click: add } }, "Add an example"));
}

function small(record, field, label, onChange) {
  const input = h("textarea", { rows: "2", dir: "auto" });
  input.value = record[field];
  input.addEventListener("input", () => {
    record[field] = input.value;
    onChange();
  });
  return labeled(label, input);
}
