/** Say how strongly a token is shaded, and in words what its figures are. No DOM in here. */

/** Steps of shading; 0 is none. */
export const STEPS = 6;

/**
 * Return how unlikely a token was in steps: 0 above one half, one more for each factor of about 4.
 *
 * @param logprob nats; null where the model gave it no probability at all.
 */
export function surprise(logprob) {
  if (logprob === null) return STEPS;
  const halvings = -logprob / Math.LN2;
  return Math.max(0, Math.min(STEPS, Math.ceil((halvings - 1) / 2)));
}

/**
 * Return how far a token's probability is from the base's: steps from -STEPS (the base found it
 * likelier) to STEPS (the model does), one for each factor of 2; null without a base.
 */
export function shift(token) {
  if (token.ref_logprob === null || token.logprob === null) return null;
  const factor = (token.logprob - token.ref_logprob) / Math.LN2;
  return Math.max(-STEPS, Math.min(STEPS, Math.trunc(factor)));
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

/** Say what a token's figures are, in one line. */
export function describe(token) {
  const said = [
    `${visible(token.text)}: ${token.logprob === null ? "0 %" : percent(Math.exp(token.logprob))}`,
    `rank ${token.rank}`,
    `entropy ${number(token.entropy)} nats`,
  ];
  if (token.ref_logprob !== null) said.push(`base ${percent(Math.exp(token.ref_logprob))}`);
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
