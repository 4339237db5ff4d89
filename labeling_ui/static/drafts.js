/**
 * Keep a labeler's work safe while it changes: mirrored in this browser at once, saved on the server
 * soon after, again and again until the server has it. What a person has typed is never thrown away
 * by an error.
 */

import { ApiError, newKey, post } from "./client.js";
import { keysFrom, read, remove, write } from "./storage.js";

const SOON = 600;
const FIRST_RETRY = 1000;
const LAST_RETRY = 30_000;
const MIRROR = "steerline.draft.";
const KEEP_DAYS = 14;

/**
 * Save the drafts of one task.
 *
 * The server counts versions. A save names the last version that this page has seen; where another
 * page has saved since, the server refuses and sends its draft. `page` in the content tells a page's
 * own earlier save, whose answer was lost, from that of another page.
 */
export class DraftKeeper {
  #task;
  #read;
  #on;
  #version;
  #dirty = false;
  #stopped = false;
  #over = false;
  #failures = 0;
  #saving = null;
  #timer = null;

  /**
   * @param task the task; the version is that of its draft.
   * @param read returns the content to save.
   * @param on `state(name, detail)`, `newer(content)`, `lost(error)`, `saved()`.
   */
  constructor(task, read, on) {
    this.#task = task;
    this.#read = read;
    this.#on = on;
    this.#version = task.draft?.version ?? 0;
  }

  /** Note a change: mirror it, and save it soon. */
  changed() {
    this.#dirty = true;
    this.#mirror();
    if (this.#stopped || this.#failures > 0) return;
    this.#on.state("saving");
    this.#later(SOON);
  }

  /** Save now: the page may be about to go, or the network has come back. */
  hurry({ leaving = false } = {}) {
    if (!this.#dirty || this.#stopped) return;
    this.#mirror();
    this.#save(leaving);
  }

  /** Save no more, and wait for a save under way, so that none arrives after a submit. */
  async stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#saving;
  }

  /** Go on saving: a submit did not succeed, or the labeler has signed in again. */
  resume() {
    this.#stopped = this.#over;
    if (this.#dirty && !this.#stopped) this.#later(0);
  }

  /** Forget the mirror: the server has the work, or it was given up. */
  forget() {
    remove(MIRROR + this.#task.token);
  }

  #later(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(), delay);
  }

  /** Save what changed. One save at a time, because their versions would cross. */
  async #save(leaving = false) {
    clearTimeout(this.#timer);
    if (this.#saving || !this.#dirty || this.#stopped) return;
    this.#saving = this.#send(leaving);
    const wait = await this.#saving;
    this.#saving = null;
    if (this.#dirty && !this.#stopped && wait !== null) this.#later(wait);
  }

  /** Send the draft and return after how many ms to send again what is not saved, null for never. */
  async #send(leaving) {
    const content = this.#read();
    this.#dirty = false;
    try {
      const draft = { token: this.#task.token, version: this.#version, content };
      return this.#accepted(await post("/draft", draft, { leaving }));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#dirty = true;
      return error.code === "stale" ? this.#overtaken(error, content) : this.#refused(error);
    }
  }

  #accepted(saved) {
    this.#version = saved.version;
    this.#failures = 0;
    this.#mirror();
    this.#on.saved();
    if (!this.#dirty) this.#on.state("saved", { at: new Date(saved.saved) });
    return SOON;
  }

  #refused(error) {
    if (error.passing) {
      const wait = Math.min(FIRST_RETRY * 2 ** this.#failures, LAST_RETRY);
      this.#failures += 1;
      this.#on.state("failing", { why: error.message, wait });
      return wait;
    }
    // Shortening mends a draft that is too long; the next change tries again.
    this.#stopped = !["refused", "too_large"].includes(error.code);
    this.#over = this.#stopped && error.code !== "signed_out";
    this.#on.state("refused", { why: error.message });
    if (this.#stopped) this.#on.lost(error);
    return null;
  }

  /** Take up the version of a newer draft on the server, and its content if it is not our own. */
  #overtaken(error, content) {
    const { draft } = error.body;
    this.#version = draft.version;
    this.#failures = 0;
    if (draft.content.page === content.page) return 0;
    this.#dirty = false;
    this.#on.newer(draft.content);
    this.#mirror();
    this.#on.state("saved", { at: new Date() });
    return null;
  }

  #mirror() {
    const kept = { version: this.#version, content: this.#read(), dirty: this.#dirty, at: Date.now() };
    write(MIRROR + this.#task.token, kept);
  }
}

/**
 * Choose between the server's draft and this browser's mirror of it.
 *
 * @returns the `content` to show (null for none), whether it is `unsaved`, and `other`: what this
 *   browser had, where the server has something newer from elsewhere.
 */
export function openDraft(task) {
  const server = task.draft;
  const mirror = read(MIRROR + task.token);
  if (!mirror?.dirty || !mirror.content) return { content: server?.content ?? null, unsaved: false };
  const newest = !server || mirror.version === server.version;
  const ownSave = server?.content.page === mirror.content.page;
  if (newest || ownSave) return { content: mirror.content, unsaved: true };
  return { content: server.content, unsaved: false, other: mirror.content };
}

/** Drop the mirrors of tasks long gone; one with unsaved work stays for two weeks. */
export function tidyMirrors(token) {
  for (const key of keysFrom(MIRROR)) {
    const mirror = read(key);
    const old = Date.now() - (mirror?.at ?? 0) > KEEP_DAYS * 86_400_000;
    if (key !== MIRROR + token && (old || !mirror?.dirty)) remove(key);
  }
}

/** Name this page, the same after a reload: its own saves are not another page's. */
export function pageName() {
  const [visit] = performance.getEntriesByType("navigation");
  const earlier = visit?.type === "navigate" ? null : read("steerline.page", "sessionStorage");
  const name = earlier ?? newKey();
  write("steerline.page", name, "sessionStorage");
  return name;
}
