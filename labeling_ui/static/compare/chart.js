/** Draw curves over steps as SVG, with a legend and a table of their newest points. */

import { h } from "../dom.js";
import { scoped } from "./parts.js";
import { thin, ticks } from "./scales.js";
import { number } from "./shading.js";
import { s } from "./svg.js";

const WIDTH = 860;
const HEIGHT = 300;
const LEFT = 64;
const RIGHT = 16;
const TOP = 12;
const BOTTOM = 36;
/** How many looks of a line there are; each has a colour and a dash of its own. */
const LOOKS = 8;

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
  const label = `${metric} by step: ${curves.map(({ name }) => name).join(", ")}. The table below has the numbers.`;
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
  );
}

function line(points, at, x, y) {
  const drawn = thin(points).map(([step, value]) => `${round(x(step))},${round(y(value))}`);
  const [step, value] = points.at(-1);
  return [
    s(`polyline.curve.look-${at % LOOKS}`, { points: drawn.join(" ") }),
    s(`circle.end.look-${at % LOOKS}`, { cx: round(x(step)), cy: round(y(value)), r: 3 }),
  ];
}

function legendItem(name, at) {
  const sample = s(
    "svg",
    { viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" },
    s(`polyline.curve.look-${at % LOOKS}`, { points: "0,4 28,4" }),
  );
  return h("li", {}, sample, h("span", {}, name));
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
