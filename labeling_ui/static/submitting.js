/**
 * Submit work so that it counts once. The key is made with the submission and kept in this browser
 * until the server has acknowledged it: after a lost answer the same key goes out again, and the
 * server knows it. Work that says something else gets another key.
 */

import { ApiError, newKey, post } from "./client.js";
import { read, remove, write } from "./storage.js";
import { saying } from "./work.js";

const PENDING = "steerline.submit.";
const FIRST_RETRY = 1000;
const LAST_RETRY = 15_000;

/** Return the key under which to submit, the earlier one where the same was on its way before. */
export function keyFor(token, submission) {
  const pending = read(PENDING + token);
  const says = saying(submission);
  if (pending?.says === says) return pending.key;
  const key = newKey();
  write(PENDING + token, { key, says });
  return key;
}

/** Whether a submission for the task was sent and never acknowledged. */
export function wasPending(token) {
  return read(PENDING + token) !== null;
}

/** Forget a submission that is acknowledged or given up. */
export function acknowledged(token) {
  remove(PENDING + token);
}

/**
 * Send until there is an answer; failures that may pass are tried again.
 *
 * @param onWait called with the words of the failure and how many ms until the next attempt.
 * @param signal aborts the waiting.
 * @throws ApiError where the server refuses, or the signal was aborted (code "stopped").
 */
export async function deliver(path, body, onWait, signal) {
  for (let wait = FIRST_RETRY; ; wait = Math.min(2 * wait, LAST_RETRY)) {
    try {
      return await post(path, body);
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passing) throw error;
      onWait(error.message, wait);
    }
    await pause(wait, signal);
    if (signal.aborted) throw new ApiError("stopped", "you stopped it");
  }
}

/** Wait; shorter where the network comes back or the signal is aborted. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    window.addEventListener("online", done);
    signal.addEventListener("abort", done, { once: true });
  });
}
