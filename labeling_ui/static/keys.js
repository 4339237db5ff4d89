/** Keys that act everywhere on the board. What a person types into a field is left to the field. */

import { singleKeys } from "./dialogs.js";

const WRITING = "textarea, select, input:not([type=radio], [type=checkbox])";

/**
 * Listen to keys.
 *
 * @param on `screen()` (what is shown, or null), `instructions()`.
 */
export function listenToKeys(on) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    if (act(event, on)) event.preventDefault();
  });
}

function act(event, on) {
  const screen = on.screen();
  const writing = event.target.matches?.(WRITING) ?? false;
  if (event.ctrlKey || event.metaKey) return command(event, screen, writing);
  if (writing) return false;
  const single = !event.altKey && event.key.length === 1;
  if (single && !singleKeys()) return false;
  if (single && (event.key === "?" || event.key === "i")) {
    on.instructions();
    return true;
  }
  return screen?.keydown(event) ?? false;
}

function command(event, screen, writing) {
  const undoing = event.key.toLowerCase() === "z" && !writing && screen?.undo !== undefined;
  if (event.key === "Enter" && screen) screen.advance();
  else if (undoing && event.shiftKey) screen.redo();
  else if (undoing) screen.undo();
  return (event.key === "Enter" && screen !== null) || undoing;
}
