/** Draw curves over steps as SVG, with a legend and a table of their newest points. */

import { h } from "../dom.js";
import { scoped } from "./parts.js";
import { letters, placeMarks, thin, ticks } from "./scales.js";
import { number } from "./shading.js";
import { s } from "./svg.js";

const WIDTH = 860;
const HEIGHT = 300;
const LEFT = 64;
/** Beside the plot there is room for the letters of about 40 lines that end there. */
const RIGHT = 52;
const TOP = 12;
const BOTTOM = 36;
/** So many colours and dashes there are; as pairs they repeat after 64 lines. */
const LOOKS = 8;
/** Between the end of a line and its letter, and the room that a letter takes. */
const GAP = 7;
const MARK = [20, 12];

export class Chart {
  #plot = h("div.plot", { tabindex: "0", role: "region", "aria-label": "Curves" });
  #legend = h("ul.legend");
  #table = h("tbody");
  #caption = h("caption");
  root = h(
    "figure.chart",
    {},
    this.#plot,
    this.#legend,
    h(
      "div.wide",
      { tabindex: "0", role: "region", "aria-label": "Newest points" },
      h(
        "table",
        {},
        this.#caption,
        h("thead", {}, h("tr", {}, ["Curve", "Points", "Newest step", "Newest", "Lowest", "Highest"].map(scoped))),
        this.#table,
      ),
    ),
  );

  /**
   * Draw curves anew.
   *
   * @param metric what they show.
   * @param curves `{name, points: [[step, value]]}`.
   */
  draw(metric, curves) {
    const shown = curves.filter(({ points }) => points.length > 0);
    this.#plot.replaceChildren(shown.length > 0 ? plot(metric, shown) : nothing(metric));
    this.#legend.replaceChildren(...shown.map(({ name }, at) => legendItem(name, at)));
    this.#caption.textContent = `${metric}: the newest points`;
    this.#table.replaceChildren(...shown.map(row));
  }
}

function nothing(metric) {
  return h("p.quiet", {}, `No stage that is chosen has logged ${metric} yet.`);
}

function plot(metric, curves) {
  const points = curves.flatMap((curve) => curve.points);
  const across = ticks(...range(points.map(([x]) => x)), 6);
  const up = ticks(...range(points.map(([, y]) => y)), 5);
  const x = scale(across, LEFT, WIDTH - RIGHT);
  const y = scale(up, HEIGHT - BOTTOM, TOP);
  const label = `${metric} by step: ${curves.map(({ name }, at) => `${letters(at)} ${name}`).join(", ")}. The table below has the numbers.`;
  return s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    up.map((tick) => [
      s("line.grid", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      s("text.tick", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, number(tick)),
    ]),
    across.map((tick) =>
      s("text.tick", { x: x(tick), y: HEIGHT - 16, "text-anchor": "middle" }, whole(tick)),
    ),
    s("text.tick", { x: WIDTH - RIGHT, y: HEIGHT - 2, "text-anchor": "end" }, "step"),
    curves.map((curve, at) => line(curve.points, at, x, y)),
    marks(curves.map((curve) => curve.points.at(-1)).map(([step, value]) => [round(x(step)), round(y(value))])),
  );
}

function line(points, at, x, y) {
  const drawn = thin(points).map(([step, value]) => `${round(x(step))},${round(y(value))}`);
  const [step, value] = points.at(-1);
  return [
    s(lookOf(at), { points: drawn.join(" ") }),
    s(`circle.end.look-${at % LOOKS}`, { cx: round(x(step)), cy: round(y(value)), r: 3 }),
  ];
}

/** Lines of one colour have different dashes. */
function lookOf(at) {
  const dash = (at + Math.floor(at / LOOKS)) % LOOKS;
  return `polyline.curve.look-${at % LOOKS}.dash-${dash}`;
}

/** Letter the ends of lines; a letter that stands elsewhere is led to. */
function marks(ends) {
  const places = placeMarks(ends.map(([x, y]) => [x + GAP, y]), MARK, [WIDTH, 2, HEIGHT - BOTTOM + MARK[1]]);
  const leaders = places.map(([x, y], at) => {
    const [x1, y1] = ends[at];
    const moved = Math.hypot(x - x1 - GAP, y - y1) > 1;
    return moved ? s("line.leader", { x1, y1, x2: x - 1, y2: y }) : null;
  });
  // The letters last: they stand on what crosses them.
  return [leaders, places.map(([x, y], at) => s("text.mark", { x, y: y + 4 }, letters(at)))];
}

function legendItem(name, at) {
  const sample = s(
    "svg",
    { viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" },
    s(lookOf(at), { points: "0,4 28,4" }),
  );
  return h("li", {}, sample, h("span.mark", {}, letters(at)), h("span", {}, name));
}

function row({ name, points }) {
  const values = points.map(([, value]) => value);
  const [step, value] = points.at(-1);
  const [low, high] = range(values);
  const cells = [points.length, step, number(value), number(low), number(high)];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, name),
    cells.map((cell) => h("td", {}, String(cell))),
  );
}

function range(values) {
  return values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
}

/** Map from the first to the last tick onto a stretch. */
function scale(at, from, to) {
  const [low, high] = [at[0], at.at(-1)];
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

function whole(tick) {
  return Number.isInteger(tick) ? String(tick) : "";
}

function round(value) {
  return Math.round(value * 10) / 10;
}
