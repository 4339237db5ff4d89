/** Say how strongly a token is shaded, and in words what its figures are. No DOM in here. */

/** Steps of shading; 0 is none. */
export const STEPS = 6;

/**
 * Return how unlikely a token was in steps: 0 above one half, one more for each factor of 4.
 *
 * @param logprob nats; null where the model gave it no probability at all.
 */
export function surprise(logprob) {
  if (logprob === null) return STEPS;
  const halvings = -logprob / Math.LN2;
  return Math.max(0, Math.min(STEPS, Math.ceil((halvings - 1) / 2)));
}

/**
 * Return how far a token's probability is from the reference's: steps from -STEPS (the reference
 * found it likelier) to STEPS (the model does), one for each factor of 2; null where it was not
 * measured.
 */
export function shift(token) {
  if (token.ref_logprob === null || token.logprob === null) return null;
  const factor = (token.logprob - token.ref_logprob) / Math.LN2;
  return Math.max(-STEPS, Math.min(STEPS, Math.trunc(factor)));
}

/**
 * Return the class of a token.
 *
 * @param view "probability" or "base".
 */
export function look(token, view) {
  if (view === "probability") return `p${surprise(token.logprob)}`;
  const steps = shift(token);
  if (steps === null) return "unmeasured";
  if (steps === 0) return "b0";
  return steps > 0 ? `more${steps}` : `less${-steps}`;
}

/**
 * Explain a view's classes: `[class, words]`; nothing for a view that shades nothing.
 *
 * @param reference what tokens are compared with, such as "the base".
 */
export function legend(view, reference) {
  if (view === "base") return changes(reference);
  if (view !== "probability") return [];
  const bounds = Array.from({ length: STEPS }, (_, step) => `1 in ${2 ** (1 + 2 * step)}`);
  const words = bounds.map((bound, step) => (step === 0 ? `${bound} or likelier` : `down to ${bound}`));
  return [...words, `less than ${bounds.at(-1)}`].map((said, step) => [`p${step}`, said]);
}

function changes(reference) {
  return [
    ["less6", `64 times likelier under ${reference}, or more`],
    ["less3", "from 8 times"],
    ["less1", "from 2 times"],
    ["b0", "alike"],
    ["more1", "from 2 times likelier here"],
    ["more3", "from 8 times"],
    ["more6", "64 times or more"],
    ["unmeasured", "not measured"],
  ];
}

/**
 * Say what a reference is called in a sentence.
 *
 * @param reference as the routes are asked for it: a model's id, "own" for each run's base, or "".
 * @returns null without one.
 */
export function nameReference(reference) {
  if (reference === "") return null;
  return reference === "own" ? "the base" : reference;
}

/** Spell a probability: "93.1 %", "0.004 %". */
export function percent(probability) {
  const value = probability * 100;
  if (value >= 0.1 || value === 0) return `${value.toFixed(1)} %`;
  return `${value.toPrecision(1)} %`;
}

/** Spell a token's text so that white space and ends can be seen. */
export function visible(text) {
  if (text === "") return "∅";
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}

/**
 * Say what a token's figures are, in one line.
 *
 * @param reference what the token was to be compared with; null where with nothing.
 */
export function describe(token, reference) {
  const said = [
    `${visible(token.text)}: ${token.logprob === null ? "0 %" : percent(Math.exp(token.logprob))}`,
    `rank ${token.rank}`,
    `entropy ${number(token.entropy)} nats`,
  ];
  if (token.ref_logprob !== null) said.push(`${reference} ${percent(Math.exp(token.ref_logprob))}`);
  else if (reference !== null) said.push(`${reference} not measured`);
  if (token.kl !== null) said.push(`KL ${number(token.kl)} nats`);
  return said.join(", ");
}

/** Spell a number with three digits that count. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  return String(Number(value.toPrecision(size >= 100 ? Math.ceil(Math.log10(size)) : 3)));
}
