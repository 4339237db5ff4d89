/** Draw what a run's stages were made from: labels and data on the left, policies on the right. */

import { h } from "../dom.js";
import { columns } from "./scales.js";
import { s } from "./svg.js";

const STORE = "store:";
/** Stages that look at the others and that nothing is made from. */
const LOOKERS = ["evaluate", "report"];
const [BOX, TALL, ACROSS, DOWN, EDGE] = [176, 62, 52, 20, 8];

/**
 * Return the nodes of a run's lineage, parents before children in the order of the line.
 *
 * @param stages as the routes tell them.
 * @returns `{name, title, lines, kind, parents: [{name, current}]}`.
 */
export function nodesOf(stages) {
  const nodes = [];
  for (const stage of stages.filter(({ name }) => !LOOKERS.includes(base(name)))) {
    const parents = Object.entries(stage.parents).map(([name, current]) => ({ name, current }));
    const data = Object.keys(stage.sources).filter((source) => !source.startsWith(STORE));
    const labels = Object.entries(stage.sources).filter(([source]) => source.startsWith(STORE));
    if (data.length > 0) {
      const name = `data of ${stage.name}`;
      nodes.push({ name, title: plural(data.length, "data source"), lines: data, kind: "data", parents: [] });
      parents.push({ name, current: true });
    }
    for (const [, hash] of labels) {
      const name = `labels ${hash.slice(0, 8)}`;
      addLabels(nodes, name, parents);
      parents.push({ name, current: true });
    }
    const kept = parents.filter(({ name }) => labels.length === 0 || base(name) !== "label");
    nodes.push({ name: stage.name, title: stage.name, lines: linesOf(stage), kind: stage.status, parents: kept });
  }
  return nodes;
}

/** The labels that a stage read stand between it and the stage that made tasks of prompts. */
function addLabels(nodes, name, parents) {
  if (nodes.some((node) => node.name === name)) return;
  const from = parents.filter((parent) => base(parent.name) === "label");
  nodes.push({ name, title: "Labels", lines: [`snapshot ${name.slice(7)}`], kind: "labels", parents: from });
}

function linesOf(stage) {
  const lines = [stage.status];
  if (stage.model_hash) lines.push(`model ${stage.model_hash.slice(0, 8)}`);
  else if (stage.checkpoints.length) lines.push(plural(stage.checkpoints.length, "checkpoint"));
  return lines;
}

/** Draw a run's lineage, with the same in words beneath. */
export function lineage(run, stages) {
  const nodes = nodesOf(stages);
  return h(
    "figure.lineage",
    {},
    h("div.wide", { tabindex: "0", role: "region", "aria-label": `Lineage of ${run}` }, drawing(run, nodes)),
    h("details", {}, h("summary", {}, "The same in words"), h("ul", {}, nodes.map(inWords))),
  );
}

function drawing(run, nodes) {
  const parents = Object.fromEntries(nodes.map((node) => [node.name, node.parents.map(({ name }) => name)]));
  const column = placeData(nodes, columns(parents));
  const rows = [];
  const places = new Map();
  for (const node of nodes) {
    const at = column.get(node.name);
    rows[at] = (rows[at] ?? 0) + 1;
    places.set(node.name, { x: EDGE + at * (BOX + ACROSS), y: EDGE + (rows[at] - 1) * (TALL + DOWN) });
  }
  const width = 2 * EDGE + rows.length * (BOX + ACROSS) - ACROSS;
  const height = 2 * EDGE + Math.max(1, ...rows) * (TALL + DOWN) - DOWN;
  const label = `Lineage of ${run}: ${nodes.length} nodes. The list below says the same in words.`;
  return s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
    nodes.map((node) => node.parents.map((parent) => edge(places.get(parent.name), places.get(node.name), parent))),
    nodes.map((node) => box(node, places.get(node.name))),
  );
}

/** Data stands right before the stage that reads it, where its edge crosses nothing. */
function placeData(nodes, column) {
  for (const node of nodes) {
    for (const { name } of node.parents) {
      if (name === `data of ${node.name}`) column.set(name, column.get(node.name) - 1);
    }
  }
  return column;
}

function edge(from, to, { current }) {
  if (!from || !to) return null;
  const [x1, y1, x2, y2] = [from.x + BOX, from.y + TALL / 2, to.x, to.y + TALL / 2];
  const bend = Math.max(ACROSS / 2, (x2 - x1) / 2);
  const path = `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return s(current ? "path.edge" : "path.edge.stale", { d: path });
}

function box({ title, lines, kind }, { x, y }) {
  const line = (text, at) => s("text.line", { x: x + 12, y: y + 38 + at * 15 }, cut(text, 26));
  return s(
    "g",
    {},
    s("title", {}, [title, ...lines].join("\n")),
    s(`rect.node.${kind}`, { x, y, width: BOX, height: TALL, rx: 8 }),
    s("text.name", { x: x + 12, y: y + 21 }, cut(title, 20)),
    (lines.length > 2 ? [lines[0], `and ${lines.length - 1} more`] : lines).map(line),
  );
}

function inWords({ name, title, lines, parents }) {
  const from = parents.map((one) => (one.current ? one.name : `${one.name} (as it was, changed since)`));
  const own = title === name ? name : `${title} (${name})`;
  return h("li", {}, `${own}: ${lines.join(", ")}${from.length ? `; made from ${from.join(", ")}` : ""}.`);
}

function base(name) {
  return name.split("@", 1)[0];
}

function plural(count, word) {
  return count === 1 ? `1 ${word}` : `${count} ${word}s`;
}

function cut(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}
