/** The second step of a ranking: all outputs from best to worst, with ties. */

import { outputCard } from "./cards.js";
import { h, newId } from "./dom.js";
import { dropTarget, makeDraggable } from "./dragging.js";
import {
  insertAt,
  letterOf,
  LETTERS,
  moveDown,
  moveUp,
  place,
  rankOf,
  sendTo,
  tieAbove,
  tieInto,
  unplace,
  unranked,
} from "./tiers.js";
import { doubts, idsOf } from "./work.js";

const GLIDE = { duration: 180, easing: "ease-out" };

/** The view of the ranking step: a tray of what is not ranked yet, and the tiers. */
export class RankingView {
  /** @param screen the task's screen: `task`, `work`, `change`, `look`, `flags`. */
  constructor(screen) {
    this.screen = screen;
    this.ids = idsOf(screen.task);
    this.cards = new Map(screen.task.completions.map((one) => [one.id, outputCard(this, one)]));
    for (const [id, card] of this.cards) this.#makeDraggable(id, card);
    const [trayId, tiersId] = [newId("tray"), newId("tiers")];
    this.trayCards = h("div.cards");
    this.trayHint = h("p.hint", {}, "Bring an output here to take it out again.");
    this.trayTitle = h("h2", { id: trayId });
    this.tray = h(
      "section.tray",
      { "aria-labelledby": trayId },
      this.trayTitle,
      this.trayHint,
      this.trayCards,
    );
    this.tiers = h("ol.tiers");
    this.empty = h("p.hint", {}, "Bring the best output here: drag it, or press its letter and then 1.");
    this.doubts = h("ul.doubts");
    this.area = h(
      "section.order",
      { "aria-labelledby": tiersId },
      h("h2", { id: tiersId, tabindex: "-1" }, "Ranking, best first"),
      this.empty,
      this.tiers,
      this.doubts,
    );
    this.root = h("div.ranking", {}, this.tray, this.area);
    this.root.addEventListener("focusin", (event) => this.#rove(event.target.closest(".card")));
  }

  /** Put the focus at the start of the step. */
  focus() {
    this.area.querySelector("h2").focus({ preventScroll: true });
  }

  /** Give an output another place, and say so. */
  move(id, tiers) {
    const say = `Output ${letterOf(this.ids, id)}: ${place(this.ids, tiers, id)}`;
    const same = JSON.stringify(tiers) === JSON.stringify(this.screen.work.tiers);
    if (same) this.screen.say(say);
    else this.screen.change({ ...this.screen.work, tiers }, { say });
    this.cards.get(id).root.scrollIntoView({ block: "nearest" });
  }

  /** Show the work as it is now; cards glide to their new places and keep the focus. */
  sync(work) {
    const before = this.#places();
    const focused = this.root.contains(document.activeElement) ? document.activeElement : null;
    this.#arrange(work.tiers);
    for (const card of this.cards.values()) card.sync(work);
    this.#refocus(focused);
    this.#glide(before);
    this.doubts.replaceChildren(
      ...doubts(this.screen.task, work).map((line) => h("li", {}, line)),
    );
  }

  /** Act on a key; true where it meant something here. */
  keydown(event) {
    const letter = event.key.toUpperCase();
    if (!event.altKey && letter.length === 1 && LETTERS.slice(0, this.ids.length).includes(letter)) {
      this.#focusCard(this.ids[LETTERS.indexOf(letter)]);
      return true;
    }
    const card = event.target.closest?.(".card");
    if (!card) return false;
    const id = card.dataset.id;
    const next = this.#moveBy(event, id);
    if (next) this.move(id, next);
    return next !== null || this.#walk(event, card);
  }

  #moveBy(event, id) {
    const { tiers } = this.screen.work;
    const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
    if (event.altKey && event.key === "ArrowUp") return moveUp(this.ids, tiers, id);
    if (event.altKey && event.key === "ArrowDown") return moveDown(this.ids, tiers, id);
    if (event.altKey) return null;
    if (event.key === "=") return tieAbove(this.ids, tiers, id);
    if (digit === "0" || event.key === "Delete") return unplace(this.ids, tiers, id);
    if (!digit) return null;
    const rank = Number(digit);
    return event.shiftKey ? insertAt(this.ids, tiers, id, rank - 1) : sendTo(this.ids, tiers, id, rank);
  }

  /** Move the focus between cards, or show more of the focused one. */
  #walk(event, card) {
    if (event.target !== card || event.altKey) return false;
    const all = [...this.root.querySelectorAll(".card")];
    const at = all.indexOf(card);
    const steps = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1 };
    const ends = { Home: 0, End: all.length - 1 };
    const to = all[steps[event.key] ?? ends[event.key]];
    if (to) this.#focusCard(to.dataset.id);
    else if (event.key === "Enter") card.querySelector(".more")?.click();
    return to !== undefined || event.key === "Enter";
  }

  #focusCard(id) {
    const card = this.cards.get(id).root;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  /** Let Tab reach one card, the one last used; the arrows reach the others. */
  #rove(card) {
    if (!card) return;
    for (const { root } of this.cards.values()) root.tabIndex = root === card ? 0 : -1;
  }

  #arrange(tiers) {
    const tray = unranked(this.ids, tiers).map((id) => this.cards.get(id).root);
    const complete = tray.length === 0;
    fill(this.trayCards, tray);
    this.trayTitle.textContent = complete ? "Every output has a rank" : "Not ranked yet";
    this.root.classList.toggle("complete", complete);
    this.empty.hidden = tiers.length > 0;
    while (this.tiers.children.length > tiers.length) this.tiers.lastElementChild.remove();
    while (this.tiers.children.length < tiers.length) this.tiers.append(emptyTier());
    for (const [index, tier] of tiers.entries()) {
      const item = this.tiers.children[index];
      item.querySelector(".number").textContent = String(index + 1);
      item.querySelector(".word").textContent = word(index, tiers, complete);
      fill(item.querySelector(".cards"), tier.map((id) => this.cards.get(id).root));
    }
    const cards = [...this.root.querySelectorAll(".card")];
    if (!cards.some((card) => card.tabIndex === 0)) this.#rove(cards[0]);
  }

  #refocus(focused) {
    if (!focused || document.activeElement === focused) return;
    const usable = focused.isConnected && !focused.disabled && !focused.hidden;
    (usable ? focused : focused.closest(".card"))?.focus({ preventScroll: true });
  }

  #places() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches || !this.root.isConnected) return null;
    return [...this.cards.values()].map(({ root }) => [root, root.getBoundingClientRect()]);
  }

  #glide(before) {
    for (const [card, from] of before ?? []) {
      const to = card.getBoundingClientRect();
      const [x, y] = [from.left - to.left, from.top - to.top];
      const visible = from.width > 0 && (x !== 0 || y !== 0);
      if (visible) card.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], GLIDE);
    }
  }

  #makeDraggable(id, card) {
    let ghost = null;
    makeDraggable(card.handle, {
      start: () => {
        const text = this.screen.task.completions.find((one) => one.id === id).text;
        ghost = h(
          "div.ghost",
          { "aria-hidden": "true" },
          h("span.letter", {}, letterOf(this.ids, id)),
          h("span", {}, text.slice(0, 120)),
        );
        this.root.append(ghost);
        this.root.classList.add("dragging");
        card.root.classList.add("lifted");
      },
      move: (x, y) => {
        ghost.style.transform = `translate(${x + 12}px, ${y - 20}px)`;
        this.#show(this.#target(id, x, y));
      },
      drop: (x, y) => this.#drop(id, this.#target(id, x, y)),
      end: () => {
        ghost.remove();
        this.#show(null);
        this.root.classList.remove("dragging");
        card.root.classList.remove("lifted");
      },
    });
  }

  /** Tell where a drop would go: `{tray}`, `{gap}`, `{tier}`, or null where nothing would change. */
  #target(id, x, y) {
    const tray = this.tray.getBoundingClientRect();
    const { tiers } = this.screen.work;
    const rank = rankOf(tiers, id);
    const over = y >= tray.top && y <= tray.bottom && x >= tray.left && x <= tray.right;
    if (over) return rank === null ? null : { tray: true };
    const rects = [...this.tiers.children].map((item) => item.getBoundingClientRect());
    const target = dropTarget(y, rects);
    if (rank === null) return target;
    const own = rank - 1;
    const alone = tiers[own].length === 1;
    const same = target.tier === own || (alone && [own, own + 1].includes(target.gap));
    return same ? null : target;
  }

  #show(target) {
    this.tray.classList.toggle("target", target?.tray === true);
    this.empty.classList.toggle("target", target?.gap === 0);
    for (const [index, item] of [...this.tiers.children].entries()) {
      const last = index === this.tiers.children.length - 1;
      item.classList.toggle("target", target?.tier === index);
      item.classList.toggle("gap-above", target?.gap === index);
      item.classList.toggle("gap-below", last && target?.gap === index + 1);
    }
  }

  #drop(id, target) {
    const { tiers } = this.screen.work;
    if (target?.tray) this.move(id, unplace(this.ids, tiers, id));
    else if (target?.tier !== undefined) this.move(id, tieInto(this.ids, tiers, id, target.tier));
    else if (target) this.move(id, insertAt(this.ids, tiers, id, target.gap));
    this.#focusCard(id);
  }
}

function emptyTier() {
  return h(
    "li.tier",
    {},
    h("p.rank", {}, h("span.visually-hidden", {}, "Rank "), h("span.number"), h("span.word")),
    h("div.cards"),
  );
}

/** Say what a rank is beside its number; which is the worst is known when all are ranked. */
function word(index, tiers, complete) {
  const last = complete && index > 0 && index === tiers.length - 1;
  const words = [];
  if (index === 0 && tiers.length > 1) words.push("best");
  if (last) words.push("worst");
  if (tiers[index].length > 1) words.push("tie");
  return words.join(", ");
}

/** Make the elements the children, in order, touching only what differs. */
function fill(parent, elements) {
  for (const [at, element] of elements.entries()) {
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
  }
  while (parent.children.length > elements.length) parent.lastElementChild.remove();
}
