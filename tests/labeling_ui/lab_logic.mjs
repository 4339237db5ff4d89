/** Laws of the lead's page's modules that need no browser. `test_page_logic.py` runs this in Node. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { lasting } from "./static/lab/queue.js";

const line = (message) => `data: ${JSON.stringify(message)}\n\n`;
const DONE = line({ msg: "process_completed", event_id: "e" });
const END = line({ msg: "close_stream", event_id: null });
const OTHER = line({ msg: "process_starts", event_id: "e", words: "naïve 猫" });

/** Return a body that gives its parts one after the other. */
const body = (parts) =>
  new ReadableStream({
    pull(page) {
      if (parts.length === 0) page.close();
      else page.enqueue(new TextEncoder().encode(parts.shift()));
    },
  });

/** Return a queue whose streams are these, and how often each address was asked. */
function queueOf(streams, join = () => new Response("{}")) {
  const asked = { "/queue/join": 0, "/queue/data": 0 };
  const fetch = lasting(async (url) => {
    asked[url] += 1;
    return url === "/queue/join" ? join() : new Response(body(streams.shift()));
  });
  return { fetch, asked };
}

const text = async (answer) => (await answer).text();

test("a stream that answers all is as it was", async () => {
  const { fetch, asked } = queueOf([[OTHER, DONE, END]]);
  await fetch("/queue/join");
  assert.equal(await text(fetch("/queue/data")), OTHER + DONE + END);
  assert.equal(asked["/queue/data"], 1);
});

test("messages in pieces, and several in one, are as they were", async () => {
  for (const size of [1, 7, 1000]) {
    const whole = OTHER + OTHER + DONE + END;
    const parts = [];
    for (let at = 0; at < whole.length; at += size) parts.push(whole.slice(at, at + size));
    const { fetch } = queueOf([parts]);
    await fetch("/queue/join");
    assert.equal(await text(fetch("/queue/data")), whole);
  }
});

test("a stream that ends before an answer goes on with the next", async () => {
  const { fetch, asked } = queueOf([[DONE, END], [END], [OTHER + DONE + END]]);
  await fetch("/queue/join");
  await fetch("/queue/join");
  assert.equal(await text(fetch("/queue/data")), DONE + OTHER + DONE + END);
  assert.equal(asked["/queue/data"], 3);
});

test("what is refused is not waited for", async () => {
  const refusals = [() => new Response("", { status: 503 }), () => Promise.reject(new Error("no"))];
  for (const refuse of refusals) {
    const { fetch, asked } = queueOf([[END]], refuse);
    await Promise.resolve(fetch("/queue/join")).catch(() => {});
    assert.equal(await text(fetch("/queue/data")), END);
    assert.equal(asked["/queue/data"], 1);
  }
});

test("a stream that cannot go on fails", async () => {
  let streams = 0;
  const fetch = lasting(async (url) => {
    if (url === "/queue/join") return new Response("{}");
    streams += 1;
    return streams === 1 ? new Response(body([END])) : new Response("", { status: 404 });
  });
  await fetch("/queue/join");
  await assert.rejects(text(fetch("/queue/data")), /404/);
});

test("who stops reading ends the stream behind it", async () => {
  let reason = null;
  const endless = new ReadableStream({
    pull: (page) => page.enqueue(new TextEncoder().encode(OTHER)),
    cancel: (why) => {
      reason = why;
    },
  });
  const fetch = lasting(async () => new Response(endless));
  const reader = (await fetch("/queue/data")).body.getReader();
  await reader.read();
  await reader.cancel("enough");
  assert.equal(reason, "enough");
});

test("a stream that is refused, and all else, is handed on", async () => {
  const refused = new Response("", { status: 404 });
  const fetch = lasting(async () => refused);
  assert.equal(await fetch("/queue/data"), refused);
  assert.equal(await fetch(new URL("http://here/config")), refused);
});
