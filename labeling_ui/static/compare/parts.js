/** Parts of the page that several tabs have. */

import { h, newId } from "../dom.js";

/** Make a column's head of a table. */
export function scoped(name) {
  return h("th", { scope: "col" }, name);
}

/** Make a table that scrolls by itself where it is too wide. */
export function table(caption, heads, rows) {
  return h(
    "div.wide",
    { tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map(scoped))),
      h("tbody", {}, rows),
    ),
  );
}

/**
 * Make a list to choose one from.
 *
 * @param groups `[name, [[value, label]]]`; options of a group without a name stand first.
 */
export function select(groups, chosen, attributes = {}) {
  const made = h("select", attributes);
  fillSelect(made, groups, chosen);
  return made;
}

/** Give a list other options; what was chosen stays chosen if it is still there. */
export function fillSelect(list, groups, chosen = list.value) {
  const option = ([value, label]) => h("option", { value }, label);
  list.replaceChildren(
    ...groups.flatMap(([name, options]) =>
      name === "" ? options.map(option) : [h("optgroup", { label: name }, options.map(option))],
    ),
  );
  list.value = chosen;
  if (list.selectedIndex < 0 && list.options.length > 0) list.selectedIndex = 0;
}

/** Make a field: its name above, its control, and a hint. */
export function field(name, control, hint = null) {
  const [id, hintId] = [newId("control"), newId("hint")];
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", hintId);
  return h(
    "div.field",
    {},
    h("label.field-name", { for: id }, name),
    control,
    hint ? h("p.hint", { id: hintId }, hint) : null,
  );
}

/** Make a box to tick. */
export function tick(name, checked, onChange) {
  const box = h("input", { type: "checkbox", on: { change: () => onChange(box.checked) } });
  box.checked = checked;
  return h("label.tick", {}, box, h("span", {}, name));
}

/** Return the turns of a prompt in one line, cut to a length. */
export function excerpt(messages, length = 90) {
  const text = messages.at(-1).content.replace(/\s+/g, " ").trim();
  const cut = text.length > length ? `${text.slice(0, length).trimEnd()}…` : text;
  return messages.length > 1 ? `${cut} (${messages.length} turns)` : cut;
}
