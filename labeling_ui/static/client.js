/** Talk to the desk's routes. Every failure is an ApiError that says in words what is wrong. */

const PATIENCE = 20_000;
/** Requests that outlive their page may carry this many bytes together (the Fetch standard). */
const KEEPALIVE_LIMIT = 60_000;

const WORDS = {
  offline: "the server cannot be reached",
  signed_out: "you are signed out",
  slow_down: "the server asks to wait a moment",
  not_saved: "the server cannot write at the moment",
  too_large: "it is too long for the server",
  fault: "something went wrong on the server",
};

export class ApiError extends Error {
  /**
   * @param code the word of the API, or "offline" where no answer came.
   * @param message one line for the labeler.
   * @param body what the server sent along.
   */
  constructor(code, message, body = {}) {
    super(message);
    this.code = code;
    this.body = body;
  }

  /** Whether the same request may succeed later without anybody doing anything. */
  get passing() {
    return ["offline", "slow_down", "not_saved", "fault"].includes(this.code);
  }
}

/** Read a route of the desk. */
export function get(path) {
  return call("GET", path);
}

/**
 * Send JSON to a route of the desk.
 *
 * @param leaving true where the page may be gone before the answer comes.
 */
export function post(path, body, { leaving = false } = {}) {
  const text = JSON.stringify(body);
  const keepalive = leaving && new Blob([text]).size < KEEPALIVE_LIMIT;
  return call("POST", path, { body: text, keepalive });
}

/** Return a key that nobody else has; also where the page came without HTTPS. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return when the day began where the labeler is, by which the server counts what they do today. */
export function dayBegan() {
  const began = new Date();
  began.setHours(0, 0, 0, 0);
  return began.toISOString();
}

async function call(method, path, options = {}) {
  const headers = { "Steerline-Day": dayBegan() };
  if (method === "POST") headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/desk${path}`, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      headers,
      signal: AbortSignal.timeout(PATIENCE),
      ...options,
    });
  } catch {
    throw new ApiError("offline", WORDS.offline);
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body !== null) return body;
  throw toError(answer, body);
}

function toError(answer, body) {
  const code = body?.code ?? (answer.status === 401 ? "signed_out" : "fault");
  const said = code === "refused" ? body.error : null;
  const words = said ?? WORDS[code] ?? body?.error ?? "the server refused it";
  return new ApiError(code, words, body ?? {});
}
