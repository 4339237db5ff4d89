/**
 * Build elements. Text only ever goes in as text nodes, so that nothing from a prompt, an output or
 * a person is read as HTML, no link is made of it, and nothing is fetched for it.
 */

const SVG = "http://www.w3.org/2000/svg";
const BIDI_CONTROLS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/;

/** Icons as paths on a 16 by 16 grid. */
const ICONS = {
  up: "M8 13V3M3.5 7.5 8 3l4.5 4.5",
  down: "M8 3v10M3.5 8.5 8 13l4.5-4.5",
  tie: "M3 6h10M3 10h10",
  undo: "M6 3 2.5 6.5 6 10M3 6.5h6.5a4 4 0 0 1 0 8H7",
  redo: "m10 3 3.5 3.5L10 10M13 6.5H6.5a4 4 0 0 0 0 8H9",
  grip: "M6 3.5v.01M10 3.5v.01M6 8v.01M10 8v.01M6 12.5v.01M10 12.5v.01",
  check: "m3 8.5 3.5 3.5L13 4.5",
  alert: "M8 2 1.5 13.5h13zM8 6.5v3M8 11.5v.01",
};

/**
 * Make an element.
 *
 * @param tag the tag, with classes after dots: "button.quiet".
 * @param attributes `on` holds listeners; true and false set and leave out an attribute.
 * @param children elements and texts; null is left out.
 */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  if (name === "button") element.type = "button";
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") listen(element, value);
    else set(element, key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set or remove an attribute; true stands for an attribute without a value. */
export function set(element, key, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(key);
  else element.setAttribute(key, value === true ? "" : value);
}

/** Make an icon, which says nothing to screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Make a button with an icon whose name is for screen readers and tooltips. */
export function iconButton(name, label, onClick, attributes = {}) {
  return h(
    "button.icon-button",
    { "aria-label": label, title: label, on: { click: onClick }, ...attributes },
    icon(name),
  );
}

/** Make a label with a control of its own inside. */
export function labeled(text, control) {
  return h("label.field", {}, h("span.field-name", {}, text), control);
}

let lastId = 0;

/** Return an id that the document does not have yet. */
export function newId(word) {
  lastId += 1;
  return `board-${word}-${lastId}`;
}

/**
 * Show a text by a model or a person: as it is, white space included, isolated from its
 * surroundings whatever its direction. A long one starts with its beginning, so that neither the eye
 * nor the browser has to take in 100 kB at once; a button shows all of it.
 *
 * @param limit how many characters are shown at first; lines count as 60.
 * @param what what the text is, for the button's name: "output B".
 */
export function reading(text, { limit = 6000, what = "text" } = {}) {
  const beginning = cut(text, limit);
  const words = h("div.words", { dir: "auto" }, beginning);
  const root = h("div.reading", {}, words);
  if (BIDI_CONTROLS.test(text)) {
    root.append(h("p.remark", {}, "This text holds hidden marks that change its direction."));
  }
  if (beginning.length === text.length) return root;
  words.classList.add("cut");
  const count = text.length.toLocaleString("en");
  const button = h("button.link.more", { "aria-expanded": "false" });
  const show = (all) => {
    words.textContent = all ? text : beginning;
    words.classList.toggle("cut", !all);
    button.textContent = all ? "Show less" : `Show all ${count} characters`;
    set(button, "aria-expanded", String(all));
    set(button, "aria-label", `${button.textContent} of ${what}`);
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
  show(false);
  root.append(button);
  return root;
}

function listen(element, listeners) {
  for (const [type, listener] of Object.entries(listeners)) element.addEventListener(type, listener);
}

/** Return the beginning of a text that fits the limit, without half a character at its end. */
function cut(text, limit) {
  let room = limit;
  let end = 0;
  while (end < text.length && room > 0) {
    room -= text[end] === "\n" ? 60 : 1;
    end += 1;
  }
  if (end >= text.length || text.length - end < limit / 4) return text;
  const space = text.lastIndexOf(" ", end);
  if (space > end - 40) return text.slice(0, space);
  return /[\ud800-\udbff]/.test(text[end - 1]) ? text.slice(0, end - 1) : text.slice(0, end);
}
