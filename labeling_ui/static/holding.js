/** A task in the labeler's hands: its screen, its draft, and the signs of life that hold its lease. */

import { post } from "./client.js";
import { DraftKeeper, openDraft, tidyMirrors } from "./drafts.js";
import { TaskScreen } from "./screen.js";
import { acknowledged, wasPending } from "./submitting.js";
import { blankWork, readDraft, readSubmitted } from "./work.js";

const HEARTBEAT = 60_000;
/** Less work than this is not worth a save of its own, in seconds. */
const WORTH_SAVING = 5;

/** What the desk answers a task whose time ran out. */
export const GONE = ["gone", "unknown"];
export const SIGN_IN = { label: "Sign in again", href: "/signin?next=/label" };

export class Holding {
  #context;
  #keeper = null;
  #lastContact = performance.now();
  #discarded = false;
  #savedSeconds = 0;

  /**
   * @param task the task; one with the token "practice" is kept nowhere.
   * @param context `desk`, `page`, `clock`, `frame`.
   * @param on what the labeler can do: `submit()`, `skip()`, `report()`, `leave()`, `next()`.
   */
  constructor(task, context, on) {
    this.task = task;
    this.practice = task.token === "practice";
    this.#context = context;
    this.on = on;
    const { content, unsaved, other } = this.practice ? { content: null } : openDraft(task);
    const draft = content?.discarded ? null : content;
    context.clock.seconds = draft?.active_seconds ?? task.submitted?.active_seconds ?? 0;
    this.#savedSeconds = context.clock.seconds;
    this.screen = new TaskScreen(task, context.desk, begin(task, draft), this.#actions());
    if (!this.practice) this.#keep();
    if (unsaved) this.#keeper.changed();
    else if (draft) this.screen.showState("Restored from your draft");
    if (other) this.#offer("Another page has saved newer work, shown here.", readDraft(task, other));
    if (!this.practice && !task.submitted && wasPending(task.token)) this.#notePending();
  }

  /** Save what is not saved yet, as far as the server can be reached. */
  hurry() {
    this.#keeper?.hurry();
  }

  /** Save what is not saved yet, the time worked too: the page may not come back. */
  leaving() {
    const unsaved = this.#context.clock.seconds - this.#savedSeconds;
    if (unsaved > WORTH_SAVING) this.#keeper?.changed();
    this.#keeper?.hurry({ leaving: true });
  }

  /** Save no more for now, and wait for a save under way. */
  async pause() {
    await this.#keeper?.stop();
  }

  /** Save again. */
  resume() {
    this.#keeper?.resume();
  }

  /** Put the task aside, to be taken up again or not. */
  async putAside() {
    this.#keeper?.hurry();
    await this.#keeper?.stop();
  }

  /** Throw away the changes to what was submitted before. */
  discard() {
    if (this.practice) return;
    this.#discarded = true;
    this.#keeper.changed();
  }

  /** Forget what this browser keeps: the server has it all. */
  done() {
    this.#keeper?.forget();
    acknowledged(this.task.token);
  }

  /** Hold the lease while the labeler is active. */
  async beat() {
    const due = performance.now() - this.#lastContact >= HEARTBEAT;
    if (!due || this.practice || this.task.submitted) return;
    this.#noteContact();
    try {
      await post("/heartbeat", { token: this.task.token });
    } catch (error) {
      if (!error.passing) this.lost(error);
    }
  }

  /** Say that the task or the session is lost, and what to do. */
  lost(error) {
    const { frame } = this.#context;
    if (error.code === "signed_out") {
      const words = "You are signed out. Your work is kept in this browser.";
      frame.notice("lost", words, { tone: "bad", actions: [SIGN_IN] });
      return;
    }
    const words = GONE.includes(error.code)
      ? "Your time for this task ran out, and others have done it. " +
        "What you wrote stays here: copy what you need."
      : `Not saved: ${error.message}`;
    const actions = [{ label: "Next task", run: this.on.next }];
    frame.notice("lost", words, { tone: "bad", actions });
  }

  #actions() {
    const { frame } = this.#context;
    return {
      ...this.on,
      changed: () => {
        frame.dismiss("missing");
        this.#keeper?.changed();
      },
      say: (text) => frame.say(text),
      warn: (text) => frame.warn(text),
    };
  }

  #keep() {
    tidyMirrors(this.task.token);
    this.#keeper = new DraftKeeper(this.task, () => this.#content(), {
      state: (name, detail) => this.#showState(name, detail),
      newer: (content) => this.#takeNewer(content),
      lost: (error) => this.lost(error),
      saved: () => this.#noteSaved(),
    });
  }

  #content() {
    const { page, clock } = this.#context;
    if (this.#discarded) return { page, discarded: true };
    return { ...this.screen.work, page, active_seconds: Math.round(clock.seconds) };
  }

  #noteSaved() {
    this.#context.frame.dismiss("lost");
    this.#savedSeconds = this.#context.clock.seconds;
    this.#noteContact();
  }

  #noteContact() {
    this.#lastContact = performance.now();
  }

  #notePending() {
    const words = "What you submitted has not arrived. Your work is here: please submit it again.";
    this.#context.frame.notice("pending", words, { tone: "bad" });
  }

  #showState(name, { at, why, wait } = {}) {
    const words = {
      saving: () => "Saving…",
      saved: () => `Saved ${at.toLocaleTimeString(undefined, { timeStyle: "short" })}`,
      failing: () => `Not saved: ${why}. Trying again in ${Math.ceil(wait / 1000)} s.`,
      refused: () => `Not saved: ${why}`,
    };
    const { frame } = this.#context;
    const trouble = name === "failing" || name === "refused";
    const before = this.screen.inTrouble;
    this.screen.showState(words[name](), trouble);
    if (trouble && !before) frame.say("Your work is not saved. This browser keeps it.", true);
    if (before && name === "saved") frame.say("Your work is saved again.");
  }

  /** Show what another page has saved, and offer to bring back what was here. */
  #takeNewer(content) {
    const { work } = this.screen;
    this.screen.take(begin(this.task, content.discarded ? null : content));
    this.#offer("You went on working on another page. Its newer work is shown.", work);
  }

  #offer(words, work) {
    const { frame } = this.#context;
    const back = () => {
      frame.dismiss("newer");
      this.screen.change(work);
    };
    frame.notice("newer", words, { actions: [{ label: "Bring back what I had here", run: back }] });
  }
}

/** Return the work to begin with: the draft, else what was submitted before, else none. */
function begin(task, draft) {
  if (draft) return readDraft(task, draft);
  return task.submitted ? readSubmitted(task, task.submitted) : blankWork(task);
}
