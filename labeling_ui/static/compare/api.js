/** Talk to the routes of comparisons. Every failure is an ApiError that says in words what is wrong. */

const ROOT = "/api/lab/compare";
/** Seconds that an answer which is no stream may take. */
const PATIENCE = 60;
const WORDS = {
  offline: "The server cannot be reached.",
  timeout: `No answer within ${PATIENCE} seconds: the server or its models are busy. Try again.`,
  signed_out: "You are signed out. Sign in again.",
  forbidden: "Only leads may do this. Sign in as a lead.",
  fault: "Something went wrong on the server, and it was written down.",
};

export class ApiError extends Error {
  /**
   * @param code the word of the API, "offline" where no answer came, "timeout" where it took too
   *   long, "stopped" where the page itself ended it.
   * @param message one line for people.
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Read a route; the parameters become its query. */
export async function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const answer = await ask(query ? `${path}?${query}` : path, { signal: patience() });
  return read(answer, (body) => body.json());
}

/** Read a route that answers with a text. */
export async function getText(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return read(await ask(`${path}?${query}`, { signal: patience() }), (body) => body.text());
}

/** Send JSON to a route. */
export async function post(path, body) {
  return read(await ask(path, { ...json(body), signal: patience() }), (answer) => answer.json());
}

/**
 * Send JSON to a route that answers with a JSON object a line, and yield them as they come.
 *
 * @param signal ends it: an ApiError with the code "stopped" is thrown.
 */
export async function* lines(path, body, signal) {
  try {
    const answer = await ask(path, { ...json(body), signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    yield* whole(reader);
  } catch (error) {
    if (signal.aborted) throw new ApiError("stopped", "Stopped.");
    throw explain(error);
  }
}

/** Cut what a reader gives into lines, parse each, and refuse an end that was not said. */
export async function* whole(reader) {
  let rest = "";
  let ended = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part === "") continue;
      const event = JSON.parse(part);
      if (event.type === "end") ended = true;
      else yield event;
    }
  }
  if (!ended) throw new ApiError("offline", "The connection broke before the answers were whole.");
}

/** Return what went wrong as an ApiError, which may have been one before. */
export function explain(error) {
  if (error instanceof ApiError) return error;
  const code = error.name === "TimeoutError" ? "timeout" : "offline";
  return new ApiError(code, WORDS[code]);
}

function json(body) {
  return {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
}

function patience() {
  return AbortSignal.timeout(1000 * PATIENCE);
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(ROOT + path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    throw explain(error);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const code = body?.code ?? (answer.status === 401 ? "signed_out" : "fault");
  throw new ApiError(code, WORDS[code] ?? body?.error ?? WORDS.fault);
}

async function read(answer, how) {
  try {
    return await how(answer);
  } catch (error) {
    throw explain(error);
  }
}
