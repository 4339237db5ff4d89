/**
 * An order with ties, as a list of tiers of output ids: the first tier is rank 1, the best.
 *
 * Ids that stand in no tier are not ranked yet. Inside a tier, outputs keep the order in which the
 * server presented them, so that one ranking has one spelling and a tie says nothing about order.
 * Every function returns new tiers and leaves its arguments alone. No DOM in here.
 */

/** Letters for outputs by position; I is left out, because it looks like 1. */
export const LETTERS = "ABCDEFGHJ";

/** Return the letter of an output by its position in the presented order. */
export function letterOf(ids, id) {
  return LETTERS[ids.indexOf(id)];
}

/** Return the rank of an output, 1 the best, or null while it is not ranked. */
export function rankOf(tiers, id) {
  const index = tiers.findIndex((tier) => tier.includes(id));
  return index < 0 ? null : index + 1;
}

/** Return the outputs that are not ranked yet, in the presented order. */
export function unranked(ids, tiers) {
  return ids.filter((id) => rankOf(tiers, id) === null);
}

/** Return the dense ranks by id, as a judgment has them. */
export function toRanks(tiers) {
  return Object.fromEntries(tiers.flatMap((tier, index) => tier.map((id) => [id, index + 1])));
}

/** Return the tiers of a judgment's ranks. */
export function fromRanks(ids, ranks) {
  const levels = [...new Set(ids.map((id) => ranks[id]))].sort((a, b) => a - b);
  return levels.map((level) => ids.filter((id) => ranks[id] === level));
}

/** Put an output into an existing tier, counted before the move: a tie. */
export function tieInto(ids, tiers, id, index) {
  const target = tiers[index];
  if (target === undefined) return tiers;
  return settle(
    ids,
    tiers.map((tier) => (tier === target ? [...without(tier, id), id] : without(tier, id))),
  );
}

/** Give an output a tier of its own in a gap, counted before the move: 0 is above the best. */
export function insertAt(ids, tiers, id, gap) {
  const rest = tiers.map((tier) => without(tier, id));
  rest.splice(Math.max(0, Math.min(gap, rest.length)), 0, [id]);
  return settle(ids, rest);
}

/** Take an output out of the ranking. */
export function unplace(ids, tiers, id) {
  return settle(ids, tiers.map((tier) => without(tier, id)));
}

/** Send an output to a rank: it joins those who are there, or makes the next rank at the end. */
export function sendTo(ids, tiers, id, rank) {
  return rank <= tiers.length ? tieInto(ids, tiers, id, rank - 1) : append(ids, tiers, id);
}

/** Rank an output below all others. */
export function append(ids, tiers, id) {
  return insertAt(ids, tiers, id, tiers.length);
}

/** Move an output one rank up, to a rank of its own; an unranked one joins at the end. */
export function moveUp(ids, tiers, id) {
  const index = (rankOf(tiers, id) ?? 0) - 1;
  if (index < 0) return append(ids, tiers, id);
  if (tiers[index].length > 1) return insertAt(ids, tiers, id, index);
  return index === 0 ? tiers : insertAt(ids, tiers, id, index - 1);
}

/** Move an output one rank down, to a rank of its own; an unranked one joins at the end. */
export function moveDown(ids, tiers, id) {
  const index = (rankOf(tiers, id) ?? 0) - 1;
  if (index < 0) return append(ids, tiers, id);
  if (tiers[index].length > 1) return insertAt(ids, tiers, id, index + 1);
  return index === tiers.length - 1 ? tiers : insertAt(ids, tiers, id, index + 2);
}

/** Tie an output with the rank above it; an unranked one with the last rank. */
export function tieAbove(ids, tiers, id) {
  const index = (rankOf(tiers, id) ?? tiers.length + 1) - 1;
  return index === 0 ? tiers : tieInto(ids, tiers, id, index - 1);
}

/** Say in words where an output stands: "rank 2 of 4, tied with A and C". */
export function place(ids, tiers, id) {
  const rank = rankOf(tiers, id);
  if (rank === null) return "not ranked yet";
  const others = tiers[rank - 1].filter((other) => other !== id);
  const tie = others.length ? `, tied with ${inWords(others.map((other) => letterOf(ids, other)))}` : "";
  return `rank ${rank} of ${tiers.length}${tie}`;
}

/** Say in words where ratings and ranks contradict each other; none is an error by itself. */
export function contradictions(ids, tiers, ratings, noneAcceptable) {
  const found = [];
  for (const [at, better] of ids.entries()) {
    for (const worse of ids.slice(at + 1)) found.push(contradiction(ids, tiers, ratings, better, worse));
  }
  if (noneAcceptable) {
    for (const id of ids.filter((one) => ratings[one] > 4)) {
      found.push(
        `You marked that no output is acceptable, but rated ${letterOf(ids, id)} ${ratings[id]} of 7.`,
      );
    }
  }
  return found.filter((line) => line !== null);
}

/** Return letters or words as "A", "A and B" or "A, B and C". */
export function inWords(items) {
  if (items.length < 2) return items.join("");
  return `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

function contradiction(ids, tiers, ratings, one, other) {
  const [rankOne, rankOther] = [rankOf(tiers, one), rankOf(tiers, other)];
  if (rankOne === null || rankOther === null || rankOne === rankOther) return null;
  const [above, below] = rankOne < rankOther ? [one, other] : [other, one];
  if (!(ratings[above] < ratings[below])) return null;
  const [high, low] = [letterOf(ids, above), letterOf(ids, below)];
  return (
    `You ranked ${high} above ${low}, but rated ${high} ${ratings[above]} of 7 ` +
    `and ${low} ${ratings[below]} of 7.`
  );
}

function without(tier, id) {
  return tier.filter((other) => other !== id);
}

function settle(ids, tiers) {
  return tiers
    .filter((tier) => tier.length > 0)
    .map((tier) => ids.filter((id) => tier.includes(id)));
}
