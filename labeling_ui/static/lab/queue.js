/**
 * Keep the answers of Gradio's queue coming.
 *
 * Gradio 6.31 answers all that a page asks by one stream. The server ends it when nothing is left to
 * answer; what it is asked next waits for the next stream, which the page opens if it knows by then
 * that the last one has ended. Where it learns that a moment too late, it opens none: the answer is
 * there, and stays on the server until something else is asked.
 *
 * So the page is told of an end only when no answer is missing. Until then the stream goes on here.
 */

const JOIN = "/queue/join";
const DATA = "/queue/data";

/** Return a `fetch` that does as another does, and whose streams end only when all is answered. */
export function lasting(fetch) {
  let missing = 0;

  async function join(asked) {
    missing += 1;
    try {
      const answer = await fetch(...asked);
      missing -= !answer.ok;
      return answer;
    } catch (error) {
      missing -= 1;
      throw error;
    }
  }

  /** Return the bytes of a stream, and of the next where it ends too early. */
  function stream(answer, again) {
    const encoder = new TextEncoder();
    let reader = read(answer);
    let rest = "";
    return new ReadableStream({
      async pull(page) {
        // What comes may be less than a message.
        for (let passed = 0; passed === 0; ) {
          const { value, done } = await reader.read();
          if (done) return page.close();
          const messages = (rest + value).split("\n\n");
          rest = messages.pop();
          for (const message of messages) {
            const { msg } = JSON.parse(message.slice("data:".length));
            missing -= msg === "process_completed";
            if (msg === "close_stream" && missing > 0) {
              reader = read(await again());
            } else {
              page.enqueue(encoder.encode(`${message}\n\n`));
              passed += 1;
            }
          }
        }
      },
      cancel: (reason) => reader.cancel(reason),
    });
  }

  return async (...asked) => {
    const url = String(asked[0]?.url ?? asked[0]);
    if (url.includes(JOIN)) return join(asked);
    const answer = await fetch(...asked);
    if (!url.includes(DATA) || !answer.ok) return answer;
    return new Response(stream(answer, () => fetch(...asked)), answer);
  };
}

function read(answer) {
  if (!answer.ok) throw new Error(`The queue answered ${answer.status}.`);
  return answer.body.pipeThrough(new TextDecoderStream()).getReader();
}
