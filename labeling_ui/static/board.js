/**
 * The labeler's page. It gets a task, shows it, submits it, and gets the next.
 *
 * The page around it is Gradio's, whose own state a reload or a restart of the server resets; all
 * that counts here is with the desk's routes and, until they have it, in this browser.
 */

import { ActiveClock } from "./activity.js";
import { get, post } from "./client.js";
import { askDoubts, askHistory, askReport, askSkip, showFeedback, showInstructions } from "./dialogs.js";
import { pageName, tidyMirrors } from "./drafts.js";
import { Frame, messageScreen } from "./frame.js";
import { GONE, Holding, SIGN_IN } from "./holding.js";
import { listenToKeys } from "./keys.js";
import { forgetOwnPrompt, ownPromptScreen } from "./own_prompt.js";
import { read, write } from "./storage.js";
import { acknowledged, deliver, keyFor } from "./submitting.js";
import { doubts, toSubmission } from "./work.js";

const LOOK_AGAIN = 60_000;
const TRY_AGAIN = 5000;
const SEEN = "steerline.instructions";
const ABOUT_TASK = ["missing", "newer", "lost", "pending", "editing", "thanks"];

class Board {
  #page = pageName();
  #clock = new ActiveClock((active) => this.#tick(active));
  #desk = null;
  #holding = null;
  #own = null;
  #resting = false;
  #sending = false;
  #again = null;
  #frame = new Frame({
    instructions: () => this.#instructions(),
    history: () => this.#history(),
    practice: () => this.#practice(),
    ownPrompt: () => this.#ownPrompt(),
    work: () => this.#nextTask(),
    signOut: () => this.#signOut(),
  });

  /** Draw the board into the element; again where the page around it was drawn anew. */
  start(element) {
    const first = !this.#frame.root.parentElement;
    element.replaceChildren(this.#frame.root);
    if (!first) return;
    listenToKeys({
      screen: () => (this.#sending ? null : (this.#holding?.screen ?? this.#own)),
      instructions: () => this.#instructions(),
    });
    document.addEventListener("visibilitychange", () => this.#visible());
    window.addEventListener("pagehide", () => this.#holding?.leaving());
    window.addEventListener("online", () => this.#holding?.hurry());
    this.#nextTask();
  }

  // Getting a task

  async #nextTask() {
    await this.#putAside();
    await this.#attempt(async () => {
      await this.#refresh();
      const { task } = await post("/lease", {});
      if (task) this.#open(task);
      else this.#rest();
    });
  }

  /** Do something that needs the server; where that fails, say why, and do it again. */
  async #attempt(act) {
    clearTimeout(this.#again);
    try {
      await act();
      this.#frame.dismiss("trouble");
    } catch (error) {
      if (error.code === undefined) throw error;
      this.#trouble(error, () => this.#attempt(act));
    }
  }

  #trouble(error, again) {
    const actions = error.code === "signed_out" ? [SIGN_IN] : [{ label: "Try again", run: again }];
    const soon = error.passing ? " Trying again soon." : "";
    this.#frame.notice("trouble", sentence(error.message) + soon, { tone: "bad", actions });
    if (error.passing) this.#again = setTimeout(again, TRY_AGAIN);
  }

  async #refresh() {
    this.#desk = await get("");
    this.#frame.showDesk(this.#desk);
    const { version } = this.#desk.instructions;
    const seen = read(SEEN);
    if (!version || version === seen) return;
    const words = seen
      ? `The instructions have changed: version ${version}. Please read them before you go on.`
      : "Welcome. Please read the instructions, and do a practice task if you are new.";
    const actions = [{ label: "Read them", run: () => this.#instructions() }];
    if (!seen) actions.push({ label: "Practice first", run: () => this.#practice() });
    this.#frame.notice("instructions", words, { actions });
  }

  #open(task, title = null) {
    this.#resting = false;
    const context = { desk: this.#desk, page: this.#page, clock: this.#clock, frame: this.#frame };
    this.#holding = new Holding(task, context, {
      submit: () => this.#submit(),
      skip: () => this.#skip(),
      report: () => this.#report(),
      leave: () => this.#leave(),
      next: () => this.#nextTask(),
    });
    const { screen } = this.#holding;
    this.#frame.show(title ?? screen.title, screen.root);
  }

  async #putAside() {
    clearTimeout(this.#again);
    const holding = this.#holding;
    this.#holding = null;
    this.#own = null;
    for (const name of ABOUT_TASK) this.#frame.dismiss(name);
    await holding?.putAside();
  }

  #rest() {
    this.#again = setTimeout(() => this.#nextTask(), LOOK_AGAIN);
    if (this.#resting) return;
    this.#resting = true;
    const actions = [
      { label: "Look again", run: () => this.#nextTask() },
      { label: "My work", run: () => this.#history() },
    ];
    if (this.#desk.admitted) actions.push({ label: "Write a prompt", run: () => this.#ownPrompt() });
    this.#frame.show("All done", messageScreen(restWords(this.#desk), actions));
  }

  #tick(active) {
    if (active && !this.#sending) this.#holding?.beat();
  }

  #visible() {
    if (document.visibilityState === "hidden") this.#holding?.leaving();
    else if (!this.#sending) this.#holding?.resume();
  }

  // What the labeler does with a task

  async #submit() {
    if (this.#sending) return;
    const holding = this.#holding;
    const { screen, task } = holding;
    const lines = doubts(task, screen.work);
    if (lines.length && !(await askDoubts(this.#frame.root, lines))) return;
    const submission = toSubmission(task, screen.work, this.#clock.seconds);
    if (holding.practice) await this.#checkPractice(submission);
    else await this.#deliverTask(holding, submission);
  }

  async #deliverTask(holding, submission) {
    const { screen, task } = holding;
    this.#sending = true;
    screen.lock(true);
    screen.showState("Submitting…");
    await holding.pause();
    const answer = await this.#deliver("/submit", {
      token: task.token,
      key: keyFor(task.token, submission),
      judgment: submission,
      instructions: this.#desk.instructions.version,
      interface: this.#desk.interface,
    });
    if (answer === null) {
      screen.lock(false);
      screen.showState("Not submitted", true);
      holding.resume();
      return;
    }
    holding.done();
    this.#holding = null;
    await this.#nextTask();
    const words = task.submitted
      ? "Thank you. Your change is stored."
      : `Thank you. That was number ${answer.today} today.`;
    const actions = [{ label: "See my work", run: () => this.#history() }];
    this.#frame.notice("thanks", words, { tone: "good", actions });
  }

  /** Send until it is there; null where the server refused it or the labeler stopped it. */
  async #deliver(path, body) {
    const stop = new AbortController();
    const actions = [{ label: "Stop and go on editing", run: () => stop.abort() }];
    const onWait = (why, wait) => {
      const words = `Not submitted yet: ${why}. Trying again in ${Math.ceil(wait / 1000)} s.`;
      this.#frame.notice("sending", words, { tone: "bad", actions });
    };
    this.#sending = true;
    try {
      return await deliver(path, body, onWait, stop.signal);
    } catch (error) {
      if (error.code === undefined) throw error;
      this.#refused(error, body.token);
      return null;
    } finally {
      this.#sending = false;
      this.#frame.dismiss("sending");
    }
  }

  #refused(error, token) {
    const lost = [...GONE, "signed_out"].includes(error.code);
    if (lost && this.#holding) this.#holding.lost(error);
    else if (error.code === "signed_out") this.#trouble(error);
    else if (error.code !== "stopped") {
      this.#frame.warn(sentence(`Not submitted: ${error.message}`));
    }
    const unknown = ["stopped", "signed_out"].includes(error.code);
    if (!unknown && token) acknowledged(token);
  }

  async #skip() {
    const said = await askSkip(this.#frame.root, this.#desk.skip_reasons);
    if (said === null) return;
    const holding = this.#holding;
    await holding.pause();
    await this.#attempt(async () => {
      await post("/skip", { token: holding.task.token, ...said });
      holding.done();
      this.#holding = null;
      await this.#nextTask();
      this.#frame.notice("thanks", "Skipped. Here is what comes next.");
    });
    this.#holding?.resume();
  }

  async #report() {
    const reason = await askReport(this.#frame.root);
    if (reason === null) return;
    const { token } = this.#holding.task;
    await this.#attempt(async () => {
      await post("/report", { token, reason });
      this.#frame.notice("thanks", "Flagged. The lead will look at the prompt.", { tone: "good" });
    });
  }

  async #leave() {
    this.#holding.discard();
    await this.#nextTask();
  }

  // Elsewhere

  async #instructions() {
    if (!this.#desk) return;
    write(SEEN, this.#desk.instructions.version);
    this.#frame.dismiss("instructions");
    await showInstructions(this.#frame.root, this.#desk.instructions);
  }

  async #history() {
    await this.#attempt(async () => {
      const { done } = await get("/history");
      const id = await askHistory(this.#frame.root, done);
      if (id === null) return;
      const { task } = await post("/reopen", { id });
      await this.#putAside();
      this.#open(task);
      const words = "You are editing what you have submitted. It stays as it is until you submit again.";
      this.#frame.notice("editing", words);
    });
  }

  async #practice() {
    await this.#attempt(async () => {
      const { task } = await get("/practice");
      await this.#putAside();
      this.#open(task, "Practice");
      this.#frame.notice("editing", "This is practice: nothing is stored.");
    });
  }

  async #checkPractice(judgment) {
    await this.#attempt(async () => {
      const { feedback } = await post("/practice", { judgment });
      const next = await showFeedback(this.#frame.root, feedback);
      if (next === "again") await this.#practice();
      else if (next === "done") await this.#nextTask();
    });
  }

  async #ownPrompt() {
    await this.#putAside();
    this.#resting = false;
    this.#own = ownPromptScreen({
      submit: (body) => this.#submitOwn(body),
      leave: () => this.#nextTask(),
      warn: (text) => this.#frame.warn(text),
    });
    this.#frame.show("Write a prompt", this.#own.root);
  }

  async #submitOwn(body) {
    if (this.#sending) return;
    const answer = await this.#deliver("/prompt", { ...body, key: keyFor("own-prompt", body) });
    if (answer === null) return;
    acknowledged("own-prompt");
    forgetOwnPrompt();
    await this.#nextTask();
    const words = "Thank you. The lead will read your prompt and answer.";
    this.#frame.notice("thanks", words, { tone: "good" });
  }

  async #signOut() {
    await this.#putAside();
    tidyMirrors(null);
    const form = document.createElement("form");
    form.method = "post";
    form.action = "/signout";
    this.#frame.root.append(form);
    form.submit();
  }
}

function restWords({ admitted, today }) {
  if (!admitted) return ["Thank you. That was the test.", "The lead will look at it and let you in."];
  const count = today === 1 ? "one task" : `${today} tasks`;
  const done = today > 0 ? [`You have done ${count} today.`] : [];
  return ["Thank you. There is nothing to label right now.", ...done, "This page looks again every minute."];
}

/** Make a sentence of the words of an error. */
function sentence(words) {
  const text = words[0].toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

const board = new Board();
window.steerlineBoard = { start: (element) => board.start(element) };
window.dispatchEvent(new Event("steerline-board"));
