/** Find the words in which two texts differ. No DOM in here. */

/** More cells than this are not compared one by one: the middle of both texts then differs as a whole. */
const CELLS = 4_000_000;

/** Cut a text into words, marks and white space; joined, they are the text. */
export function pieces(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];
}

/**
 * Return what makes one text of another: parts with `kind` "same", "added" or "removed".
 *
 * The parts that are not "removed" join to `text`, those that are not "added" to `base`. As many
 * pieces as possible are the same (the longest common subsequence); white space alone between two
 * changes counts as changed, so that a changed phrase is one part and not many.
 */
export function diffWords(base, text) {
  const from = pieces(base);
  const to = pieces(text);
  let start = 0;
  while (start < from.length && start < to.length && from[start] === to[start]) start += 1;
  let end = 0;
  const room = Math.min(from.length, to.length) - start;
  while (end < room && from[from.length - 1 - end] === to[to.length - 1 - end]) end += 1;
  const parts = [];
  add(parts, "same", to.slice(0, start));
  middle(parts, from.slice(start, from.length - end), to.slice(start, to.length - end));
  add(parts, "same", to.slice(to.length - end));
  return gather(parts);
}

/** Join changes that only white space lies between: what went first, then what came. */
function gather(parts) {
  const gathered = [];
  let [removed, added] = ["", ""];
  const flush = () => {
    if (removed) gathered.push({ kind: "removed", text: removed });
    if (added) gathered.push({ kind: "added", text: added });
    [removed, added] = ["", ""];
  };
  parts.forEach(({ kind, text }, at) => {
    const between = at > 0 && at < parts.length - 1 && text.trim() === "";
    if (kind === "same" && !between) flush();
    if (kind === "same" && !between) gathered.push({ kind, text });
    if (kind === "removed" || (kind === "same" && between)) removed += text;
    if (kind === "added" || (kind === "same" && between)) added += text;
  });
  flush();
  return gathered;
}

function middle(parts, from, to) {
  if (from.length * to.length > CELLS) {
    add(parts, "removed", from);
    add(parts, "added", to);
    return;
  }
  const width = to.length + 1;
  const longest = new Uint32Array((from.length + 1) * width);
  for (let i = from.length - 1; i >= 0; i -= 1) {
    for (let j = to.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      longest[at] =
        from[i] === to[j]
          ? longest[at + width + 1] + 1
          : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  let i = 0;
  let j = 0;
  while (i < from.length || j < to.length) {
    const at = i * width + j;
    if (i < from.length && j < to.length && from[i] === to[j]) {
      add(parts, "same", [to[j]]);
      i += 1;
      j += 1;
    } else if (j >= to.length || (i < from.length && longest[at + width] >= longest[at + 1])) {
      add(parts, "removed", [from[i]]);
      i += 1;
    } else {
      add(parts, "added", [to[j]]);
      j += 1;
    }
  }
}

function add(parts, kind, words) {
  if (words.length === 0) return;
  const last = parts.at(-1);
  if (last?.kind === kind) last.text += words.join("");
  else parts.push({ kind, text: words.join("") });
}

/** Return the share of words that two texts have in common, in order: 1 where they are equal. */
export function likeness(base, text) {
  const isWord = (piece) => piece.trim() !== "";
  const count = (words) => pieces(words).filter(isWord).length;
  const total = count(base) + count(text);
  if (total === 0) return 1;
  const same = diffWords(base, text).filter(({ kind }) => kind === "same");
  return (2 * same.reduce((sum, part) => sum + count(part.text), 0)) / total;
}
