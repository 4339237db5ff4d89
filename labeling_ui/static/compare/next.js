/** The panel of what a model would say next. */

import { h, newId } from "../dom.js";
import { scoped } from "./parts.js";
import { number, percent, visible } from "./shading.js";

/**
 * Make a panel that waits for a distribution.
 *
 * @param before the answer up to there.
 * @param close what its button does.
 */
export function nextPanel(before, close) {
  const id = newId("next");
  const body = h("div", { "aria-live": "polite" }, h("p.quiet", {}, "Asking the model…"));
  const root = h(
    "section.next",
    { "aria-labelledby": id, tabindex: "-1" },
    h("h3", { id }, before === "" ? "First token" : `Next token after “${tail(before)}”`),
    h("button.link", { on: { click: close } }, "Close"),
    body,
  );
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  return {
    root,
    show: (found, reference) => body.replaceChildren(distribution(found, reference)),
    fail: (words) => body.replaceChildren(h("p.notice.bad", {}, words)),
  };
}

function distribution({ tokens, entropy, chosen }, reference) {
  const listed = [...tokens];
  if (chosen && !listed.some(({ id }) => id === chosen.id)) listed.push(chosen);
  const based = listed.some((one) => one.ref_probability !== null);
  const heads = ["Rank", "Token", "Probability", ...(based ? [`Under ${reference}`] : [])];
  return h(
    "div.wide",
    { tabindex: "0", role: "region", "aria-label": "Distribution" },
    h(
      "table",
      {},
      h("caption", {}, `Entropy ${number(entropy)} nats. The chosen token is marked.`),
      h("thead", {}, h("tr", {}, heads.map(scoped))),
      h("tbody", {}, listed.map((one) => row(one, one.id === chosen?.id, based))),
    ),
  );
}

function row(candidate, isChosen, based) {
  const bar = h("span.bar", { "aria-hidden": "true" });
  bar.style.width = `${Math.max(candidate.probability * 100, 0.5)}%`;
  const base = candidate.ref_probability === null ? "–" : percent(candidate.ref_probability);
  return h(
    isChosen ? "tr.chosen" : "tr",
    {},
    h("td", {}, String(candidate.rank)),
    h("th", { scope: "row" }, h("bdi.piece", {}, visible(candidate.text)), isChosen ? " (chosen)" : null),
    h("td.share", {}, percent(candidate.probability), h("span.track", {}, bar)),
    based ? h("td", {}, base) : null,
  );
}

function tail(text) {
  const words = text.replace(/\s+/g, " ");
  return words.length > 40 ? `…${words.slice(-40)}` : words;
}
