/** Find the words in which two texts differ. No DOM in here. */

import { matches } from "./matching.js";

/** Texts with more pairs of words than this, about 32,000 words each, would hold the page up. */
const PAIRS = 2 ** 30;

/** Cut a text into words, marks and white space; joined, they are the text. */
export function pieces(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];
}

/**
 * Return what makes one text of another: parts with `kind` "same", "added" or "removed".
 *
 * The parts that are not "removed" join to `text`, those that are not "added" to `base`. As many
 * words as possible are the same, in order. White space is the same beside such words only, so that
 * a changed phrase is one part and not many.
 *
 * @returns null where the texts are too long to compare.
 */
export function diffWords(base, text) {
  const [from, to] = [pieces(base), pieces(text)];
  const [ours, theirs] = [wordPlaces(from), wordPlaces(to)];
  if (ours.length * theirs.length > PAIRS) return null;
  const pairs = matches(ours.map((at) => from[at]), theirs.map((at) => to[at]));
  const parts = [];
  let [here, there] = [0, 0];
  for (const [our, their] of pairs) {
    change(parts, from.slice(here, ours[our]), to.slice(there, theirs[their]));
    add(parts, "same", [from[ours[our]]]);
    [here, there] = [ours[our] + 1, theirs[their] + 1];
  }
  change(parts, from.slice(here), to.slice(there));
  return parts;
}

/** Return the share of words that two texts have in common, in order, by what differs: 1 where they are equal. */
export function likeness(parts) {
  const count = { same: 0, added: 0, removed: 0 };
  for (const { kind, text } of parts) count[kind] += wordPlaces(pieces(text)).length;
  const total = 2 * count.same + count.added + count.removed;
  return total === 0 ? 1 : (2 * count.same) / total;
}

function wordPlaces(all) {
  return all.flatMap((piece, at) => (piece.trim() === "" ? [] : [at]));
}

/** Add what stands between two words that are the same; white space at either end may be the same too. */
function change(parts, removed, added) {
  const head = removed.length > 0 && removed[0] === added[0] ? 1 : 0;
  const room = Math.min(removed.length, added.length) - head;
  const tail = room > 0 && removed.at(-1) === added.at(-1) ? 1 : 0;
  add(parts, "same", removed.slice(0, head));
  add(parts, "removed", removed.slice(head, removed.length - tail));
  add(parts, "added", added.slice(head, added.length - tail));
  add(parts, "same", removed.slice(removed.length - tail));
}

function add(parts, kind, words) {
  if (words.length === 0) return;
  const last = parts.at(-1);
  if (last?.kind === kind) last.text += words.join("");
  else parts.push({ kind, text: words.join("") });
}
