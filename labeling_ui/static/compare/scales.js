/** Work out where things stand in a chart and in a graph. No DOM in here. */

/** Return round numbers from below the lowest value to above the highest, `count` or a few more. */
export function ticks(low, high, count = 5) {
  if (!(high > low)) {
    const room = Math.abs(low) / 10 || 1;
    return ticks(low - room, high + room, count);
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  // Products of whole numbers: sums would gather errors (0.30000000000000004).
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toFixed(digits)));
}

/**
 * Return at most about `limit` points of a line: of each stretch the lowest and the highest, so that
 * no peak is lost; the first and the last point stay.
 *
 * @param points `[x, y]`, in the order of x.
 */
export function thin(points, limit = 800) {
  if (points.length <= limit) return points;
  const stretch = Math.ceil((2 * points.length) / limit);
  const kept = [points[0]];
  for (let start = 1; start < points.length - 1; start += stretch) {
    const part = points.slice(start, Math.min(start + stretch, points.length - 1));
    const low = part.reduce((one, other) => (other[1] < one[1] ? other : one));
    const high = part.reduce((one, other) => (other[1] > one[1] ? other : one));
    kept.push(...(low[0] <= high[0] ? [low, high] : [high, low]).slice(low === high ? 1 : 0));
  }
  return [...kept, points.at(-1)];
}

/**
 * Return which column each node of a graph stands in: one more than the furthest of its parents.
 *
 * @param parents each node's name to the names of its parents; unknown ones do not count.
 */
export function columns(parents) {
  const found = new Map();
  const place = (name, below) => {
    if (found.has(name)) return found.get(name);
    const known = (parents[name] ?? []).filter((one) => one in parents && !below.has(one));
    const beneath = new Set([...below, name]);
    const column = 1 + Math.max(-1, ...known.map((parent) => place(parent, beneath)));
    found.set(name, column);
    return column;
  };
  for (const name of Object.keys(parents)) place(name, new Set());
  return found;
}

/** Name the places of a list by letters: A to Z, then AA, AB and so on. */
export function letters(at) {
  const last = String.fromCharCode(65 + (at % 26));
  return at < 26 ? last : letters(Math.floor(at / 26) - 1) + last;
}

/**
 * Find a place for a mark right of each point: at its height, else the nearest that no mark has taken.
 *
 * @param points `[x, y]`.
 * @param size `[width, height]` of a mark.
 * @param room `[right, top, bottom]` where marks may reach to.
 * @returns for each point `[x, y]`, the middle of its mark's left edge; where nothing is free, that
 *   right beside the point.
 */
export function placeMarks(points, [wide, tall], [right, top, bottom]) {
  const taken = [];
  const isFree = ([x, y]) =>
    taken.every((other) => Math.abs(x - other[0]) >= wide || Math.abs(y - other[1]) >= tall);
  const fits = ([x, y]) => x + wide <= right && y - tall / 2 >= top && y + tall / 2 <= bottom;
  const steps = nearSteps(wide, tall, bottom - top);
  return points.map(([x, y]) => {
    const near = [Math.min(x, right - wide), Math.max(top + tall / 2, Math.min(y, bottom - tall / 2))];
    const places = steps.map(([across, down]) => [near[0] + across, near[1] + down]);
    const place = places.find((one) => fits(one) && isFree(one)) ?? near;
    taken.push(place);
    return place;
  });
}

/** Return steps right, up and down, the shortest first. */
function nearSteps(wide, tall, height) {
  const rows = Math.ceil(height / tall);
  const downs = Array.from({ length: 2 * rows + 1 }, (_, at) => (at - rows) * tall);
  const all = [0, 1, 2].flatMap((column) => downs.map((down) => [column * wide, down]));
  return all.sort((one, other) => Math.hypot(...one) - Math.hypot(...other));
}
