/** Laws of the board's modules that need no browser. `test_board_logic.py` runs this in Node. */

import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { dayBegan, get, post } from "./static/client.js";
import { DraftKeeper, openDraft } from "./static/drafts.js";
import { dropTarget } from "./static/dragging.js";
import { lacking, toPrompt } from "./static/own_prompt.js";
import * as order from "./static/tiers.js";
import { Timeline } from "./static/timeline.js";
import * as working from "./static/work.js";

const IDS = ["w", "x", "y", "z"];

/** Return every order with ties of the ids. */
function weakOrders(ids) {
  if (ids.length === 0) return [[]];
  const [first, ...rest] = ids;
  return weakOrders(rest).flatMap((tiers) => {
    const alone = [...tiers.keys(), tiers.length].map((gap) => order.insertAt(ids, tiers, first, gap));
    const tied = [...tiers.keys()].map((tier) => order.tieInto(ids, tiers, first, tier));
    return [...alone, ...tied];
  });
}

function freeze(tiers) {
  for (const tier of tiers) Object.freeze(tier);
  return Object.freeze(tiers);
}

/** A small generator of numbers from 0 to n - 1, the same in every run. */
function dice(seed) {
  let state = seed;
  return (n) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * n);
  };
}

function settled(ids, tiers) {
  const flat = tiers.flat();
  assert.equal(new Set(flat).size, flat.length, "an output stands twice");
  for (const tier of tiers) {
    assert.ok(tier.length > 0, "a rank is empty");
    assert.deepEqual(tier, ids.filter((id) => tier.includes(id)));
  }
}

test("there are as many orders with ties as Fubini counted", () => {
  const spellings = new Set(weakOrders(IDS).map((tiers) => JSON.stringify(tiers)));
  assert.equal(spellings.size, 75);
});

test("ranks are dense, and tell the whole order", () => {
  for (const tiers of weakOrders(IDS)) {
    const ranks = order.toRanks(tiers);
    const levels = [...new Set(Object.values(ranks))].sort((a, b) => a - b);
    assert.deepEqual(levels, tiers.map((_, index) => index + 1));
    assert.deepEqual(order.fromRanks(IDS, ranks), tiers);
  }
});

test("no walk of moves loses, doubles or reorders an output, or changes what it was given", () => {
  const roll = dice(7);
  const moves = [
    order.moveUp,
    order.moveDown,
    order.tieAbove,
    order.unplace,
    order.append,
    (...where) => order.sendTo(...where, 1 + roll(5)),
    (...where) => order.insertAt(...where, roll(6)),
    (...where) => order.tieInto(...where, roll(5)),
  ];
  let tiers = [];
  for (let step = 0; step < 4000; step += 1) {
    const id = IDS[roll(IDS.length)];
    tiers = moves[roll(moves.length)](IDS, freeze(tiers), id);
    settled(IDS, tiers);
    assert.deepEqual([...tiers.flat(), ...order.unranked(IDS, tiers)].sort(), IDS);
  }
});

test("up, down and tie reach every order from every other", () => {
  const all = weakOrders(IDS.slice(1));
  const steps = [order.moveUp, order.moveDown, order.tieAbove];
  for (const start of all) {
    const reached = new Map([[JSON.stringify(start), start]]);
    for (const tiers of reached.values()) {
      for (const id of IDS.slice(1)) {
        for (const step of steps) {
          const next = step(IDS.slice(1), tiers, id);
          reached.set(JSON.stringify(next), next);
        }
      }
    }
    assert.equal(reached.size, all.length);
  }
});

test("moves do what their names say", () => {
  const tiers = [["w"], ["x", "y"], ["z"]];
  assert.deepEqual(order.moveUp(IDS, tiers, "z"), [["w"], ["z"], ["x", "y"]]);
  assert.deepEqual(order.moveUp(IDS, tiers, "y"), [["w"], ["y"], ["x"], ["z"]]);
  assert.deepEqual(order.moveDown(IDS, tiers, "x"), [["w"], ["y"], ["x"], ["z"]]);
  assert.equal(order.moveUp(IDS, tiers, "w"), tiers);
  assert.equal(order.moveDown(IDS, tiers, "z"), tiers);
  assert.deepEqual(order.tieAbove(IDS, tiers, "x"), [["w", "x"], ["y"], ["z"]]);
  assert.equal(order.tieAbove(IDS, tiers, "w"), tiers);
  assert.deepEqual(order.sendTo(IDS, tiers, "z", 1), [["w", "z"], ["x", "y"]]);
  assert.deepEqual(order.sendTo(IDS, tiers, "w", 9), [["x", "y"], ["z"], ["w"]]);
  assert.deepEqual(order.insertAt(IDS, tiers, "z", 0), [["z"], ["w"], ["x", "y"]]);
  assert.deepEqual(order.unplace(IDS, tiers, "x"), [["w"], ["y"], ["z"]]);
  assert.deepEqual(order.tieAbove(IDS, [["w"]], "z"), [["w", "z"]]);
});

test("a place is told in words", () => {
  const tiers = [["w"], ["x", "z"]];
  assert.equal(order.place(IDS, tiers, "w"), "rank 1 of 2");
  assert.equal(order.place(IDS, tiers, "z"), "rank 2 of 2, tied with B");
  assert.equal(order.place(IDS, tiers, "y"), "not ranked yet");
});

test("ratings and ranks contradict each other exactly where the better rank has the worse rating", () => {
  const roll = dice(3);
  for (const tiers of weakOrders(IDS)) {
    const ratings = Object.fromEntries(IDS.map((id) => [id, 1 + roll(7)]));
    const ranks = order.toRanks(tiers);
    const pairs = IDS.flatMap((one) => IDS.map((other) => [one, other]));
    const wrong = pairs.filter(([one, other]) => ranks[one] < ranks[other] && ratings[one] < ratings[other]);
    const lines = order.contradictions(IDS, tiers, ratings, false);
    assert.equal(lines.length, wrong.length);
    for (const [one, other] of wrong) {
      const [high, low] = [order.letterOf(IDS, one), order.letterOf(IDS, other)];
      assert.ok(lines.some((line) => line.includes(`ranked ${high} above ${low},`)));
    }
  }
});

test("none acceptable contradicts a rating above the middle", () => {
  const ratings = { w: 4, x: 5, y: 1, z: 1 };
  const [line, ...more] = order.contradictions(IDS, [IDS], ratings, true);
  assert.match(line, /rated B 5 of 7/);
  assert.deepEqual(more, []);
});

test("a drop on an edge is a gap, a drop inside is a tie, in the order of the screen", () => {
  const rects = [
    { top: 0, bottom: 100 },
    { top: 120, bottom: 400 },
  ];
  const at = (y) => dropTarget(y, rects);
  assert.deepEqual([at(-50), at(5), at(50)], [{ gap: 0 }, { gap: 0 }, { tier: 0 }]);
  assert.deepEqual([at(95), at(110), at(130)], [{ gap: 1 }, { gap: 1 }, { gap: 1 }]);
  assert.deepEqual([at(260), at(390), at(900)], [{ tier: 1 }, { gap: 2 }, { gap: 2 }]);
  assert.deepEqual(dropTarget(10, []), { gap: 0 });
});

test("every change can be undone and done again", () => {
  const timeline = new Timeline(0);
  for (let value = 1; value <= 5; value += 1) timeline.change(value);
  for (let value = 4; value >= 0; value -= 1) {
    timeline.undo();
    assert.equal(timeline.present, value);
  }
  assert.equal(timeline.canUndo, false);
  timeline.undo();
  assert.equal(timeline.present, 0);
  timeline.redo();
  assert.equal(timeline.present, 1);
  timeline.change(9);
  assert.equal(timeline.canRedo, false);
  timeline.undo();
  assert.equal(timeline.present, 1);
});

test("a run of typing is one step, a pause or another field begins the next", () => {
  const timeline = new Timeline("");
  timeline.change("a", "comment", 0);
  timeline.change("ab", "comment", 800);
  timeline.change("abc", "comment", 5000);
  timeline.change("abc!", "text", 5001);
  const seen = [];
  while (timeline.canUndo) {
    timeline.undo();
    seen.push(timeline.present);
  }
  assert.deepEqual(seen, ["abc", "ab", ""]);
});

const RANKING = {
  kind: "ranking",
  token: "t",
  completions: IDS.map((id) => ({ id, text: `text of ${id}` })),
};
const RATINGS = { w: 7, x: 5, y: 5, z: 1 };

test("a submitted judgment opened again says the same", () => {
  const judgment = {
    ranks: { w: 1, x: 2, y: 2, z: 3 },
    ratings: RATINGS,
    flags: { z: { hallucination: true } },
    prompt_flags: { ambiguous: true },
    none_acceptable: false,
    comment: "z invents a date",
    active_seconds: 12.5,
  };
  const work = working.readSubmitted(RANKING, judgment);
  assert.equal(work.step, "rank");
  const again = working.toSubmission(RANKING, work, 99);
  assert.deepEqual({ ...again, active_seconds: 12.5 }, judgment);
  assert.equal(working.saying(again), working.saying(judgment));
  assert.notEqual(working.saying({ ...again, comment: "" }), working.saying(judgment));
});

test("the same words in another order of keys are the same saying", () => {
  assert.equal(
    working.saying({ ranks: { a: 1, b: 2 }, comment: "" }),
    working.saying({ comment: "", ranks: { b: 2, a: 1 } }),
  );
});

test("a draft of another version of the page brings what fits and nothing else", () => {
  const work = working.readDraft(RANKING, {
    step: "rank",
    at: 40,
    tiers: [["x", "gone"], "junk", ["x"], []],
    ratings: { w: 7, gone: 2 },
    flags: [],
    comment: 5,
    surprise: true,
  });
  assert.deepEqual(work, {
    ...working.blankWork(RANKING),
    tiers: [["x"]],
    ratings: { w: 7 },
  });
  assert.deepEqual(working.readDraft(RANKING, null), working.blankWork(RANKING));
});

test("what is missing is named, the first step first", () => {
  const blank = working.blankWork(RANKING);
  assert.equal(working.missing(RANKING, blank), "Rate A, B, C and D first.");
  const rated = { ...blank, ratings: RATINGS };
  assert.equal(working.missing(RANKING, { ...rated, tiers: [["x"]] }), "Rank A, C and D first.");
  assert.equal(working.missing(RANKING, { ...rated, tiers: [IDS] }), null);
  const writing = { kind: "demonstration", completions: [] };
  assert.equal(working.missing(writing, { text: " \n" }), "Write an answer first.");
  assert.equal(working.missing(writing, { text: "Yes." }), null);
});

test("a no leaves no trace among the flags", () => {
  const flags = Object.freeze({ opinion: true });
  assert.deepEqual(working.withFlag(flags, "sexual", true), { opinion: true, sexual: true });
  assert.deepEqual(working.withFlag(flags, "opinion", false), {});
});

test("a few-shot prompt is a conversation that the instruction opens", () => {
  const own = {
    kind: "few_shot",
    use_case: "",
    instruction: "Name the capital.",
    pairs: [
      { query: "Peru", answer: "Lima" },
      { query: "Chad", answer: "N'Djamena" },
    ],
    prompt: "Fiji ",
    text: "Suva",
    comment: "",
  };
  assert.deepEqual(toPrompt(own).messages, [
    { role: "user", content: "Name the capital.\n\nPeru" },
    { role: "assistant", content: "Lima" },
    { role: "user", content: "Chad" },
    { role: "assistant", content: "N'Djamena" },
    { role: "user", content: "Fiji" },
  ]);
  assert.equal(lacking(own), null);
  const gap = { ...own, pairs: [own.pairs[0], { query: "Chad", answer: " " }] };
  assert.equal(lacking(gap), "Fill in example 2 first.");
  const plain = toPrompt({ ...own, kind: "plain" });
  assert.deepEqual(plain.messages, [{ role: "user", content: "Fiji" }]);
  const useful = toPrompt({ ...own, kind: "user_based", use_case: "a quiz", comment: "easy" });
  assert.equal(useful.comment, "Use case: a quiz\neasy");
});

// Drafts, against a server in memory that counts versions and fails on purpose.

class Server {
  constructor(roll) {
    this.roll = roll;
    this.draft = null;
    this.reliable = false;
    this.busy = false;
    this.wrong = false;
  }

  async fetch(path, { body }) {
    // What is thrown here looks like a lost request to the page: it is told at the end.
    this.wrong ||= path !== "/api/desk/draft" || this.busy;
    this.busy = true;
    await this.delay();
    try {
      return await this.handle(body);
    } finally {
      await this.delay();
      this.busy = false;
    }
  }

  delay() {
    return new Promise((resolve) => setTimeout(resolve, 100 * this.roll(9)));
  }

  async handle(body) {
    const fate = this.reliable ? 9 : this.roll(6);
    if (fate === 0) throw new TypeError("the request was lost");
    if (fate === 1) return this.answer(503, { code: "not_saved", error: "disk full" });
    const answer = this.save(JSON.parse(body));
    if (fate === 2) throw new TypeError("the answer was lost");
    return answer;
  }

  save({ version, content }) {
    if (version !== (this.draft?.version ?? 0)) {
      return this.answer(409, { code: "stale", error: "newer", draft: this.draft });
    }
    this.draft = { version: version + 1, content };
    return this.answer(200, { version: version + 1, saved: new Date(0).toISOString() });
  }

  answer(status, body) {
    return { ok: status === 200, status, json: async () => body };
  }
}

function browser() {
  const kept = new Map();
  const localStorage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
  globalThis.window = { localStorage };
}

/** Let time pass in small steps, and everything that waits for it happen. */
async function pass(ms) {
  for (let gone = 0; gone < ms; gone += 100) {
    mock.timers.tick(100);
    for (let turn = 0; turn < 12; turn += 1) await Promise.resolve();
  }
}

function keep(server, page, task = { token: "t", draft: server.draft }) {
  const state = { text: "", told: [], newer: [] };
  globalThis.fetch = (path, options) => server.fetch(path, options);
  const keeper = new DraftKeeper(task, () => ({ text: state.text, page }), {
    state: (name) => state.told.push(name),
    newer: (content) => state.newer.push(content),
    lost: () => state.told.push("lost"),
    saved: () => {},
  });
  return { keeper, state };
}

test("whatever is lost on the way, the server has the last words in the end", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  for (let seed = 1; seed <= 40; seed += 1) {
    browser();
    const roll = dice(seed);
    const server = new Server(roll);
    const { keeper, state } = keep(server, "one page");
    for (let change = 0; change < 12; change += 1) {
      state.text += String(change);
      keeper.changed();
      if (roll(4) === 0) keeper.hurry({ leaving: true });
      await pass(100 * roll(15));
      const mirror = openDraft({ token: "t", draft: server.draft });
      assert.equal((mirror.content ?? server.draft.content).text, state.text);
    }
    server.reliable = true;
    await pass(40_000);
    assert.equal(server.draft.content.text, state.text, `seed ${seed}`);
    assert.equal(state.told.at(-1), "saved");
    assert.equal(server.wrong, false, "two saves at a time, or elsewhere");
    assert.deepEqual(state.newer, [], "a page took its own save for another's");
    assert.equal(openDraft({ token: "t", draft: server.draft }).unsaved, false);
  }
  mock.timers.reset();
});

test("another page's newer draft is shown once, and this page goes on from it", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  browser();
  const server = new Server(dice(1));
  server.reliable = true;
  const here = keep(server, "here");
  here.state.text = "mine";
  here.keeper.changed();
  await pass(4000);
  server.save({ version: 1, content: { text: "theirs", page: "there" } });
  here.state.text = "mine too";
  here.keeper.changed();
  await pass(4000);
  assert.deepEqual(here.state.newer, [{ text: "theirs", page: "there" }]);
  assert.equal(server.draft.content.text, "theirs");
  here.state.text = "both";
  here.keeper.changed();
  await pass(4000);
  assert.deepEqual(server.draft, { version: 3, content: { text: "both", page: "here" } });
  mock.timers.reset();
});

test("no save follows a stop, and what is refused for good is not sent again", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  browser();
  const server = new Server(dice(1));
  server.reliable = true;
  const { keeper, state } = keep(server, "here");
  state.text = "first";
  keeper.changed();
  await keeper.stop();
  await pass(5000);
  assert.equal(server.draft, null);
  keeper.resume();
  await pass(100);
  state.text = "second";
  keeper.changed();
  let over = false;
  keeper.stop().then(() => (over = true));
  await pass(0);
  while (!over) await pass(100);
  assert.equal(server.busy, false, "the stop did not wait for the save under way");
  assert.equal(server.draft.content.text, "first");
  await pass(5000);
  assert.equal(server.draft.content.text, "first");
  let asked = 0;
  server.save = () => {
    asked += 1;
    return server.answer(410, { code: "gone", error: "others have done it" });
  };
  keeper.resume();
  await pass(5000);
  keeper.resume();
  await pass(60_000);
  assert.equal(asked, 1);
  assert.deepEqual(state.told.slice(-2), ["refused", "lost"]);
  mock.timers.reset();
});

test("a reload brings back what this browser has and the server has not", () => {
  browser();
  const put = (kept) => window.localStorage.setItem("steerline.draft.t", JSON.stringify(kept));
  const server = { version: 3, content: { text: "saved", page: "p" } };
  const open = (draft) => openDraft({ token: "t", draft });

  assert.deepEqual(open(null), { content: null, unsaved: false });
  assert.deepEqual(open(server), { content: server.content, unsaved: false });
  const mine = { text: "typed", page: "p" };
  put({ version: 3, content: mine, dirty: true });
  assert.deepEqual(open(server), { content: mine, unsaved: true });
  put({ version: 2, content: mine, dirty: true });
  assert.deepEqual(open(server), { content: mine, unsaved: true }, "own save, answer lost");
  assert.deepEqual(open(null), { content: mine, unsaved: true });
  put({ version: 2, content: { ...mine, page: "q" }, dirty: true });
  assert.deepEqual(open(server).content, server.content, "another page was later");
  assert.deepEqual(open(server).other.text, "typed");
  put({ version: 2, content: mine, dirty: false });
  assert.deepEqual(open(server), { content: server.content, unsaved: false });
});

test("a day begins at the labeler's own midnight, also where there is none", () => {
  const zone = process.env.TZ;
  const began = (at, where) => {
    process.env.TZ = where;
    mock.timers.enable({ apis: ["Date"], now: new Date(at) });
    const day = dayBegan();
    mock.timers.reset();
    return day;
  };
  const evening = "2026-03-07T23:30:00Z";
  assert.equal(began(evening, "UTC"), "2026-03-07T00:00:00.000Z");
  assert.equal(began(evening, "Asia/Tokyo"), "2026-03-07T15:00:00.000Z");
  assert.equal(began(evening, "America/Los_Angeles"), "2026-03-07T08:00:00.000Z");
  assert.equal(began("2026-03-29T12:00:00Z", "Europe/Berlin"), "2026-03-28T23:00:00.000Z");
  // Clocks went from 24:00 to 01:00.
  assert.equal(began("2026-04-24T12:00:00Z", "Africa/Cairo"), "2026-04-23T22:00:00.000Z");
  process.env.TZ = zone ?? "UTC";
});

test("every request says when the labeler's day began", async () => {
  const sent = [];
  globalThis.fetch = async (path, options) => {
    sent.push([path, options.method, options.headers]);
    return { ok: true, json: async () => ({}) };
  };
  await get("");
  await post("/submit", {});
  const day = dayBegan();
  assert.deepEqual(sent, [
    ["/api/desk", "GET", { "Steerline-Day": day }],
    ["/api/desk/submit", "POST", { "Steerline-Day": day, "Content-Type": "application/json" }],
  ]);
});
