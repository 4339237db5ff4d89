/** Laws of the comparison's modules that need no browser. `test_page_logic.py` runs this in Node. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { explain, whole } from "./static/compare/api.js";
import { Curves } from "./static/compare/curves.js";
import { diffWords, likeness, pieces } from "./static/compare/diff.js";
import { nodesOf } from "./static/compare/lineage.js";
import { matches } from "./static/compare/matching.js";
import { columns, letters, placeMarks, thin, ticks } from "./static/compare/scales.js";
import {
  describe,
  legend,
  look,
  nameReference,
  number,
  percent,
  shift,
  STEPS,
  surprise,
  visible,
} from "./static/compare/shading.js";

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
      assert.ok(parts.every(({ kind }, at) => kind !== parts[at - 1]?.kind));
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

/** Return numbers from 0 to 1 that are the same each time. */
function draws(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function mostInCommon(one, other) {
  let above = new Array(other.length + 1).fill(0);
  for (const item of one) {
    const row = [0];
    other.forEach((there, at) => row.push(item === there ? above[at] + 1 : Math.max(above[at + 1], row[at])));
    above = row;
  }
  return above.at(-1);
}

test("as many items as possible are matched, in order", () => {
  const draw = draws(7);
  const list = () => Array.from({ length: Math.floor(20 * draw()) }, () => "abcd"[Math.floor(4 * draw())]);
  for (let round = 0; round < 500; round += 1) {
    const [one, other] = [list(), list()];
    const pairs = matches(one, other);
    assert.ok(pairs.every(([here, there]) => one[here] === other[there]));
    assert.ok(pairs.every(([here, there], at) => at === 0 || (here > pairs[at - 1][0] && there > pairs[at - 1][1])));
    assert.equal(pairs.length, mostInCommon(one, other), `${one} and ${other}`);
  }
});

test("a long text whose first and last word changed is nearly the same", () => {
  const shared = Array.from({ length: 1098 }, (_, at) => `word${at}`).join(" ");
  const parts = diffWords(`One ${shared} end`, `Two ${shared} stop`);
  assert.deepEqual(parts.map(({ kind }) => kind), ["removed", "added", "same", "removed", "added"]);
  assert.equal(likeness(parts), 1098 / 1100);
});

test("texts of thousands of words without much in common are compared in a moment", () => {
  const draw = draws(3);
  const words = () => Array.from({ length: 8000 }, () => `w${Math.floor(500 * draw())}`).join(" ");
  const [base, text] = [words(), words()];
  const begun = performance.now();
  const parts = diffWords(base, text);
  assert.ok(performance.now() - begun < 5000);
  assert.equal(join(parts, "removed"), text);
  assert.equal(join(parts, "added"), base);
  assert.ok(likeness(parts) > 0.05 && likeness(parts) < 0.5, String(likeness(parts)));
});

test("texts beyond all measure are not compared, and that is known at once", () => {
  const words = (letter) => Array.from({ length: 40_000 }, (_, at) => `${letter}${at}`).join(" ");
  const begun = performance.now();
  assert.equal(diffWords(words("a"), words("b")), null);
  assert.ok(performance.now() - begun < 2000);
});

test("likeness is 1 for equal texts, 0 for others, and the same both ways", () => {
  const like = (base, text) => likeness(diffWords(base, text));
  assert.equal(like("a b c", "a b c"), 1);
  assert.equal(like("a b c", "d e f"), 0);
  assert.equal(like("", ""), 1);
  assert.equal(like("a b c", "a c"), 0.8);
  assert.equal(like("a c", "a b c"), 0.8);
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

test("the legend of probabilities says where each shade begins and ends", () => {
  const items = legend("probability", null);
  assert.deepEqual(items.map(([shade]) => shade), ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]);
  const said = items.map(([, words]) => words);
  assert.deepEqual([said[0], said[1], said.at(-1)], ["1 in 2 or likelier", "down to 1 in 8", "less than 1 in 2048"]);
  said.slice(0, -1).forEach((words, step) => {
    const bound = 1 / Number(words.match(/1 in (\d+)/)[1]);
    const shade = (probability) => look({ logprob: Math.log(probability) }, "probability");
    assert.equal(shade(1.001 * bound), `p${step}`, words);
    assert.equal(shade(0.999 * bound), `p${step + 1}`, words);
  });
});

test("the legend of changes says how far each shade is from the reference", () => {
  const items = Object.fromEntries(legend("base", "run/sft"));
  const shade = (factor) => look({ logprob: Math.log(0.001), ref_logprob: Math.log(0.001 * factor) }, "base");
  for (const [factor, name] of [[65, "less6"], [8.1, "less3"], [2.1, "less1"], [1.9, "b0"], [0.51, "b0"], [0.49, "more1"], [0.12, "more3"], [0.015, "more6"]]) {
    assert.equal(shade(factor), name);
    assert.ok(name in items);
  }
  assert.ok(items.less6.includes("run/sft"));
  assert.deepEqual(legend("words", null), []);
});

test("what was not measured is not alike", () => {
  assert.equal(look({ logprob: -1, ref_logprob: null }, "base"), "unmeasured");
  assert.equal(look({ logprob: -1, ref_logprob: -1 }, "base"), "b0");
  assert.equal(Object.fromEntries(legend("base", "the base")).unmeasured, "not measured");
});

test("a reference is named as it was chosen", () => {
  assert.deepEqual(["own", "", "run/constructor"].map(nameReference), ["the base", null, "run/constructor"]);
});

test("figures are spelled to be read", () => {
  assert.deepEqual([0.931, 0.0005, 0, 1, 0.00004].map(percent), ["93.1 %", "0.05 %", "0.0 %", "100.0 %", "0.004 %"]);
  assert.deepEqual([0, 1.23456, -0.5, 1234.5, 0.00001, 12345678, null].map(number), ["0", "1.23", "-0.5", "1235", "1.00e-5", "1.23e+7", "–"]);
  assert.equal(visible(" a\n"), "␣a↵");
  assert.equal(visible(""), "∅");
  const token = { text: " b", logprob: Math.log(0.25), rank: 2, entropy: 1, ref_logprob: Math.log(0.5), kl: 0.1 };
  assert.equal(describe(token, "the base"), "␣b: 25.0 %, rank 2, entropy 1 nats, the base 50.0 %, KL 0.1 nats");
  const alone = { ...token, ref_logprob: null, kl: null };
  assert.equal(describe(alone, null), "␣b: 25.0 %, rank 2, entropy 1 nats");
  assert.equal(describe(alone, "run/sft"), "␣b: 25.0 %, rank 2, entropy 1 nats, run/sft not measured");
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

test("letters name any number of places", () => {
  assert.deepEqual([0, 1, 25, 26, 27, 51, 52, 701, 702].map(letters), ["A", "B", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA"]);
});

test("marks stand beside their points, and never on one another while there is room", () => {
  const [size, room] = [[20, 12], [860, 0, 276]];
  const apart = (places) =>
    places.every(([x, y], at) =>
      places.slice(0, at).every((other) => Math.abs(x - other[0]) >= size[0] || Math.abs(y - other[1]) >= size[1]),
    );
  assert.deepEqual(placeMarks([[100, 50], [100, 90], [400, 50]], size, room), [[100, 50], [100, 90], [400, 50]]);
  const together = placeMarks(Array.from({ length: 30 }, () => [815, 270]), size, room);
  assert.ok(apart(together));
  assert.ok(together.every(([x, y]) => x + 20 <= 860 && y >= 6 && y <= 270));
  assert.deepEqual(together[0], [815, 270]);
  assert.equal(placeMarks(Array.from({ length: 200 }, () => [850, 0]), size, room).length, 200);
});

test("nodes stand right of all parents, also in a ring", () => {
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
  const part = (rows, cursor, fresh = false, more = false, skipped = 0) => ({ rows, cursor, fresh, more, skipped });
  curves.follow([{ run: "r", stage: "sft" }]);
  let [asked] = curves.questions;
  assert.deepEqual(asked, [{ run: "r", stage: "sft", cursor: "" }]);
  assert.equal(curves.take(asked, [part([{ step: 1, loss: 2 }], "1:9", true, true)]), true);
  curves.take(asked, [part([{ step: 1, loss: 2 }], "1:9", true)]);
  [asked] = curves.questions;
  assert.equal(curves.take(asked, [part([{ step: 2, loss: 1, grad: 3 }], "1:20")]), false);
  assert.deepEqual(curves.lines("loss"), [{ name: "r/sft", points: [[1, 2], [2, 1]] }]);
  assert.deepEqual(curves.metrics, ["grad", "loss"]);
  assert.equal(curves.first, "loss");
  curves.take(curves.questions[0], [part([], "1:30", false, false, 2)]);
  curves.take(curves.questions[0], [part([], "1:40", false, false, 1)]);
  assert.deepEqual(curves.damaged, [["r/sft", 3]]);
  curves.take(curves.questions[0], [part([{ step: 1, loss: 5 }], "2:9", true)]);
  assert.deepEqual(curves.damaged, []);
  assert.deepEqual(curves.lines("loss"), [{ name: "r/sft", points: [[1, 5]] }]);
  [asked] = curves.questions;
  curves.follow([{ run: "r", stage: "ppo" }]);
  curves.take(asked, [part([{ step: 9, loss: 9 }], "2:18")]);
  assert.deepEqual(curves.lines("loss"), [{ name: "r/ppo", points: [] }]);
});

test("a question names no more curves than the routes take", () => {
  const curves = new Curves();
  assert.deepEqual(curves.questions, []);
  curves.follow(Array.from({ length: 50 }, (_, at) => ({ run: "r", stage: `sft@${at}` })));
  const { questions } = curves;
  assert.deepEqual(questions.map(({ length }) => length), [24, 24, 2]);
  assert.equal(new Set(questions.flat().map(({ stage }) => stage)).size, 50);
  for (const asked of questions) {
    curves.take(asked, asked.map(({ stage }) => ({ rows: [{ step: 1, loss: Number(stage.slice(4)) }], cursor: "1:9", skipped: 0 })));
  }
  assert.deepEqual(curves.lines("loss").map(({ points }) => points[0][1]), Array.from({ length: 50 }, (_, at) => at));
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

test("an answer that takes too long is told from a server that is gone", async () => {
  const hung = AbortSignal.timeout(1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const late = explain(hung.reason);
  assert.equal(late.code, "timeout");
  assert.match(late.message, /^No answer within 60 seconds/);
  const gone = await fetch("http://127.0.0.1:1/").catch(explain);
  assert.equal(gone.code, "offline");
  assert.equal(gone.message, "The server cannot be reached.");
  assert.equal(explain(late), late);
});
