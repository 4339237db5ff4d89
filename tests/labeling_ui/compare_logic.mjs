/** Laws of the comparison's modules that need no browser. `test_compare_logic.py` runs this in Node. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { whole } from "./static/compare/api.js";
import { Curves } from "./static/compare/curves.js";
import { diffWords, likeness, pieces } from "./static/compare/diff.js";
import { nodesOf } from "./static/compare/lineage.js";
import { columns, thin, ticks } from "./static/compare/scales.js";
import { describe, number, percent, shift, STEPS, surprise, visible } from "./static/compare/shading.js";

const TEXTS = [
  "",
  "The cat is small.",
  "The cat was very small.",
  "the cat is small",
  "  The  cat\nis small.\n",
  "Die Katze ist klein – sehr klein!",
  "猫は小さい。",
  "a b a b a b",
  "b a b a b a a",
  "x".repeat(500),
];

const join = (parts, left) =>
  parts.filter(({ kind }) => kind !== left).map(({ text }) => text).join("");

test("pieces join to the text", () => {
  for (const text of TEXTS) assert.equal(pieces(text).join(""), text);
});

test("a difference holds both texts, whatever they are", () => {
  for (const base of TEXTS) {
    for (const text of TEXTS) {
      const parts = diffWords(base, text);
      assert.equal(join(parts, "removed"), text);
      assert.equal(join(parts, "added"), base);
      assert.ok(parts.every((part) => part.text !== ""));
      assert.equal(parts.every(({ kind }) => kind === "same"), base === text);
    }
  }
});

test("the words that differ are found, and nothing else", () => {
  assert.deepEqual(diffWords("The cat is small.", "The cat was very small."), [
    { kind: "same", text: "The cat " },
    { kind: "removed", text: "is" },
    { kind: "added", text: "was very" },
    { kind: "same", text: " small." },
  ]);
});

test("a phrase that changed is one part", () => {
  const kinds = diffWords("He has one red dog.", "He saw two blue foxes.").map(({ kind }) => kind);
  assert.deepEqual(kinds, ["same", "removed", "added", "same"]);
});

test("very long texts are compared in bounded time", () => {
  const base = Array.from({ length: 6000 }, (_, at) => `a${at}`).join(" ");
  const text = `same ${Array.from({ length: 6000 }, (_, at) => `b${at}`).join(" ")}`;
  const begun = performance.now();
  const parts = diffWords(`same ${base}`, text);
  assert.ok(performance.now() - begun < 5000);
  assert.equal(join(parts, "removed"), text);
});

test("likeness is 1 for equal texts, 0 for others, and the same both ways", () => {
  assert.equal(likeness("a b c", "a b c"), 1);
  assert.equal(likeness("a b c", "d e f"), 0);
  assert.equal(likeness("", ""), 1);
  assert.equal(likeness("a b c", "a c"), 0.8);
  assert.equal(likeness("a c", "a b c"), 0.8);
});

test("less likely tokens are shaded more, and never beyond the last step", () => {
  const steps = [0, -0.5, -1, -2, -4, -8, -20, -Infinity].map(surprise);
  assert.deepEqual(steps, [...steps].sort((one, other) => one - other));
  assert.equal(steps[0], 0);
  assert.equal(steps.at(-1), STEPS);
  assert.equal(surprise(null), STEPS);
  assert.equal(surprise(Math.log(0.5)), 0);
  assert.equal(surprise(Math.log(0.49)), 1);
});

test("the change from the base has the sign of the change, and is nothing without one", () => {
  const token = (logprob, ref_logprob) => ({ logprob, ref_logprob });
  assert.equal(shift(token(-1, -1 - 2.1 * Math.LN2)), 2);
  assert.equal(shift(token(-1 - 2.1 * Math.LN2, -1)), -2);
  assert.equal(Math.abs(shift(token(-1, -1.2))), 0);
  assert.equal(shift(token(-1, -90)), STEPS);
  assert.equal(shift(token(-1, null)), null);
});

test("figures are spelled to be read", () => {
  assert.deepEqual([0.931, 0.0005, 0, 1, 0.00004].map(percent), ["93.1 %", "0.05 %", "0.0 %", "100.0 %", "0.004 %"]);
  assert.deepEqual([0, 1.23456, -0.5, 1234.5, 0.00001, 12345678, null].map(number), ["0", "1.23", "-0.5", "1235", "1.00e-5", "1.23e+7", "–"]);
  assert.equal(visible(" a\n"), "␣a↵");
  assert.equal(visible(""), "∅");
  const token = { text: " b", logprob: Math.log(0.25), rank: 2, entropy: 1, ref_logprob: Math.log(0.5), kl: 0.1 };
  assert.equal(describe(token), "␣b: 25.0 %, rank 2, entropy 1 nats, base 50.0 %, KL 0.1 nats");
});

test("ticks are round, enclose the values, and are in order", () => {
  for (const [low, high] of [[0, 1], [-0.36, 0.671], [3, 3], [0, 0], [1e-5, 2e-5], [-1000, 12345], [0.1, 0.3]]) {
    const found = ticks(low, high);
    assert.ok(found[0] <= low && found.at(-1) >= high, `${found} encloses ${low} to ${high}`);
    assert.ok(found.every((tick, at) => at === 0 || tick > found[at - 1]));
    assert.ok(found.length >= 2 && found.length <= 9, String(found));
  }
  assert.deepEqual(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(ticks(0.1, 0.3), [0.1, 0.15, 0.2, 0.25, 0.3]);
});

test("a line that is thinned keeps its ends, its peaks and its order", () => {
  const points = Array.from({ length: 10_000 }, (_, at) => [at, Math.sin(at / 50)]);
  points[4321][1] = 7;
  points[777][1] = -7;
  const kept = thin(points, 400);
  assert.ok(kept.length <= 402);
  assert.deepEqual(kept[0], points[0]);
  assert.deepEqual(kept.at(-1), points.at(-1));
  assert.ok(kept.some(([, value]) => value === 7));
  assert.ok(kept.some(([, value]) => value === -7));
  assert.ok(kept.every(([step], at) => at === 0 || step > kept[at - 1][0]));
  assert.equal(thin(points.slice(0, 300), 400).length, 300);
});

test("nodes stand right of all their parents, also in a ring", () => {
  const found = columns({ a: [], b: ["a"], c: ["a", "b"], d: ["c", "a"], e: ["gone"] });
  assert.deepEqual(Object.fromEntries(found), { a: 0, b: 1, c: 2, d: 3, e: 0 });
  assert.equal(columns({ a: ["b"], b: ["a"] }).size, 2);
});

test("lineage goes from data and labels to policies, and leaves out who only looks", () => {
  const stage = (name, parents = {}, sources = {}, more = {}) => ({
    ...{ name, parents, sources, status: "complete", model_hash: "", checkpoints: [] },
    ...more,
  });
  const nodes = nodesOf([
    stage("pretrain", {}, { "tiny:facts": "1" }, { model_hash: "abcdef0123456" }),
    stage("sft", { pretrain: true }),
    stage("label", { sample: true }),
    stage("reward", { sft: false, label: true }, { "store:": "0123456789ab" }),
    stage("ppo", { sft: true, reward: true }),
    stage("evaluate", { ppo: true }),
    stage("report", { ppo: true }),
  ]);
  const of = (name) => nodes.find((node) => node.name === name);
  const from = (name) => of(name).parents.map((parent) => parent.name);
  assert.deepEqual(nodes.map(({ name }) => name), [
    ...["data of pretrain", "pretrain", "sft", "label", "labels 01234567", "reward", "ppo"],
  ]);
  assert.deepEqual(from("pretrain"), ["data of pretrain"]);
  assert.deepEqual(from("reward"), ["sft", "labels 01234567"]);
  assert.deepEqual(from("labels 01234567"), ["label"]);
  assert.deepEqual(of("reward").parents[0], { name: "sft", current: false });
  assert.deepEqual(of("pretrain").lines, ["complete", "model abcdef01"]);
});

test("curves grow by parts, and begin anew where a log does", () => {
  const curves = new Curves();
  const part = (rows, cursor, fresh = false, more = false) => ({ rows, cursor, fresh, more });
  curves.follow([{ run: "r", stage: "sft" }]);
  let { asked } = curves;
  assert.deepEqual(asked, [{ run: "r", stage: "sft", cursor: "" }]);
  assert.equal(curves.take(asked, [part([{ step: 1, loss: 2 }], "1:9", true, true)]), true);
  curves.take(asked, [part([{ step: 1, loss: 2 }], "1:9", true)]);
  ({ asked } = curves);
  assert.equal(curves.take(asked, [part([{ step: 2, loss: 1, grad: 3 }], "1:20")]), false);
  assert.deepEqual(curves.lines("loss"), [{ name: "r/sft", points: [[1, 2], [2, 1]] }]);
  assert.deepEqual(curves.metrics, ["grad", "loss"]);
  assert.equal(curves.first, "loss");
  curves.take(curves.asked, [part([{ step: 1, loss: 5 }], "2:9", true)]);
  assert.deepEqual(curves.lines("loss"), [{ name: "r/sft", points: [[1, 5]] }]);
  ({ asked } = curves);
  curves.follow([{ run: "r", stage: "ppo" }]);
  curves.take(asked, [part([{ step: 9, loss: 9 }], "2:18")]);
  assert.deepEqual(curves.lines("loss"), [{ name: "r/ppo", points: [] }]);
});

function reader(...chunks) {
  const left = [...chunks];
  return { read: async () => (left.length ? { done: false, value: left.shift() } : { done: true }) };
}

async function all(lines) {
  const found = [];
  for await (const line of lines) found.push(line);
  return found;
}

test("lines come whole however they are cut, and empty ones are signs of life", async () => {
  const text = '{"type":"token","text":"a\\n"}\n\n{"type":"token","text":"ü"}\n{"type":"end"}\n';
  const expected = [{ type: "token", text: "a\n" }, { type: "token", text: "ü" }];
  for (let at = 0; at <= text.length; at += 1) {
    assert.deepEqual(await all(whole(reader(text.slice(0, at), text.slice(at)))), expected);
  }
});

test("an end that was not said is an error", async () => {
  for (const text of ["", '{"type":"token"}\n', '{"type":"token"}\n{"type"']) {
    await assert.rejects(all(whole(reader(text))), { code: "offline" });
  }
});
