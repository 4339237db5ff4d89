/** Match the items of two lists. No DOM in here. */

/**
 * Return as many pairs of equal items as there can be in order: the longest common subsequence.
 *
 * One row of the table of lengths is one number, whose bit at `i` is 0 where the length grows with
 * item `i` of `one`; a row is made of the one before by a sum and a difference (Hyyrö 2004,
 * "Bit-parallel LCS-length computation revisited"). So 4,000 words against 4,000 take milliseconds.
 * Only a row now and then is kept; those between are made again on the way back.
 *
 * @returns `[at in one, at in other]`, in order.
 */
export function matches(one, other) {
  const places = bits(one);
  const all = (1n << BigInt(one.length)) - 1n;
  const below = (row, item) => {
    const grown = row & (places.get(item) ?? 0n);
    return ((row + grown) | (row - grown)) & all;
  };
  const stretch = Math.ceil(Math.sqrt(other.length)) || 1;
  const kept = [all];
  let row = all;
  other.forEach((item, at) => {
    row = below(row, item);
    if ((at + 1) % stretch === 0) kept.push(row);
  });
  const pairs = [];
  let column = one.length;
  for (let start = stretch * Math.floor(Math.max(0, other.length - 1) / stretch); start >= 0; start -= stretch) {
    const rows = [kept[start / stretch]];
    for (const item of other.slice(start, start + stretch)) rows.push(below(rows.at(-1), item));
    let at = rows.length - 1;
    while (at > 0 && column > 0) {
      if (isSet(rows[at], column - 1)) {
        column -= 1;
        continue;
      }
      at -= 1;
      // 0 in this row and not yet in the one before: here the two are a pair.
      if (isSet(rows[at], column - 1)) {
        column -= 1;
        pairs.push([column, start + at]);
      }
    }
  }
  return pairs.reverse();
}

/** Return for each item the number that has a bit for each of its places. */
function bits(items) {
  const found = new Map();
  items.forEach((item, at) => found.set(item, (found.get(item) ?? 0n) | (1n << BigInt(at))));
  return found;
}

function isSet(row, at) {
  return BigInt.asUintN(1, row >> BigInt(at)) === 1n;
}
