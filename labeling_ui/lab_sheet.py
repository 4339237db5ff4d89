"""Show rows as a table to read, which a column's head sorts.

A table of HTML's own rather than ``gr.Dataframe``, whose cells are no table for a screen reader and
are cut off where they are long. The page's script sets every cell with ``textContent``.
"""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

TEMPLATE = '<div class="sheet"></div>'
STYLE = """
.sheet { overflow: hidden; border: 1px solid var(--border-color-primary); border-radius: 0.5rem;
  background: var(--block-background-fill); color: var(--body-text-color); }
h2 { margin: 0; padding: 0.625rem 0.75rem; font-size: 0.875rem; font-weight: 600;
  color: var(--body-text-color); }
.lines { max-height: min(38rem, 85vh); overflow: auto; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.875rem;
  line-height: 1.45; }
th, td { padding: 0.375rem 0.75rem; border-top: 1px solid var(--border-color-primary);
  font-weight: 400; text-align: start; vertical-align: top; unicode-bidi: isolate; }
thead th { position: sticky; top: 0; z-index: 2; padding: 0; white-space: nowrap;
  background: var(--background-fill-secondary); }
tbody th { position: sticky; inset-inline-start: 0; z-index: 1; min-width: 8rem; max-width: 20rem;
  background: var(--block-background-fill); overflow-wrap: anywhere; }
td { max-width: 26rem; overflow-wrap: break-word; }
td.short { white-space: nowrap; }
td.long { min-width: 14rem; }
.number { min-width: 0 !important; text-align: end; font-variant-numeric: tabular-nums; }
button { display: inline-flex; gap: 0.25rem; width: 100%; padding: 0.375rem 0.75rem; border: 0;
  background: none; color: inherit; font: inherit; font-weight: 600; cursor: pointer; }
.number button { justify-content: end; }
button::after { content: "↕" / ""; opacity: 0.55; }
[aria-sort="ascending"] button::after { content: "↑" / ""; opacity: 1; }
[aria-sort="descending"] button::after { content: "↓" / ""; opacity: 1; }
button:focus-visible { outline: 2px solid var(--color-accent); outline-offset: -2px; }
.empty { color: var(--body-text-color-subdued); }
@media (max-width: 40rem) {
  tbody th { max-width: 9rem; }
  th, td, button { padding-inline: 0.5rem; }
}
"""
SCRIPT = """
const NUMBER = /^[+-]?\\d[\\d.]*(%| |$)/;
const SHORT = 24;
let sorted = { column: -1, order: "none" };

const make = (tag, text, name) => {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
};
const isBlank = (text) => text === "-" || text === "undefined";
const numeric = (rows, column) => {
  const filled = rows.map((row) => String(row[column])).filter((text) => !isBlank(text));
  return filled.length > 0 && filled.every((text) => NUMBER.test(text));
};
const compare = (column, byNumber) => (one, other) => {
  const [a, b] = [String(one[column]), String(other[column])];
  if (isBlank(a) || isBlank(b)) return isBlank(a) - isBlank(b);
  const ahead = byNumber ? parseFloat(a) - parseFloat(b) : a.localeCompare(b);
  return sorted.order === "descending" ? -ahead : ahead;
};
const arrange = (rows, numbers) => {
  if (sorted.order === "none") return rows;
  return [...rows].sort(compare(sorted.column, numbers[sorted.column]));
};
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const sortBy = (column) => {
  const order = sorted.column === column ? NEXT[sorted.order] : "ascending";
  sorted = { column, order };
  draw();
  element.querySelectorAll("thead button")[column].focus();
};

const head = (numbers) => {
  const row = document.createElement("tr");
  props.headers.forEach((title, column) => {
    const cell = make("th", "", numbers[column] ? "number" : "");
    cell.scope = "col";
    cell.setAttribute("aria-sort", sorted.column === column ? sorted.order : "none");
    const button = make("button", title);
    button.type = "button";
    button.addEventListener("click", () => sortBy(column));
    cell.append(button);
    row.append(cell);
  });
  const made = document.createElement("thead");
  made.append(row);
  return made;
};
const line = (values, numbers) => {
  const row = document.createElement("tr");
  values.forEach((value, column) => {
    const text = String(value);
    const names = `${numbers[column] ? "number " : ""}${text.length <= SHORT ? "short" : "long"}`;
    const cell = make(column === 0 ? "th" : "td", text, names);
    if (column === 0) cell.scope = "row";
    row.append(cell);
  });
  return row;
};
const nothing = () => {
  const row = document.createElement("tr");
  const cell = make("td", "Nothing yet.", "empty");
  cell.colSpan = props.headers.length;
  row.append(cell);
  return row;
};

function draw() {
  const root = element.querySelector(".sheet");
  if (!root) return;
  const rows = Array.isArray(props.value) ? props.value : [];
  const numbers = props.headers.map((_, column) => numeric(rows, column));
  const body = document.createElement("tbody");
  const lines = arrange(rows, numbers).map((values) => line(values, numbers));
  body.append(...(lines.length > 0 ? lines : [nothing()]));
  const table = document.createElement("table");
  table.setAttribute("aria-label", props.title);
  table.append(head(numbers), body);
  const scroller = make("div", "", "lines");
  scroller.append(table);
  root.replaceChildren(make("h2", props.title), scroller);
}
draw();
watch("value", draw);
"""


def table(title: str, headers: Sequence[str]) -> gr.HTML:
    """Return a component whose value is a list of rows.

    Args:
        title: what the table is, above it and for screen readers.
        headers: of the columns; the first one names the rows.
    """
    return gr.HTML(
        [],
        html_template=TEMPLATE,
        css_template=STYLE,
        js_on_load=SCRIPT,
        apply_default_css=False,
        title=title,
        headers=list(headers),
    )
