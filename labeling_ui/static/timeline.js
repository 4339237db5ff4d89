/** Undo and redo over values that are never changed in place. No DOM in here. */

const LONGEST = 500;
/** Changes of one kind that follow each other within this time are undone together, in ms. */
const TOGETHER = 1500;

export class Timeline {
  #past = [];
  #future = [];
  #kind = null;
  #changedAt = -Infinity;

  constructor(present) {
    this.present = present;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /**
   * Make a value the present one.
   *
   * @param kind what changed, where a run of such changes is one step (typing); else null.
   * @param now the time in ms.
   */
  change(next, kind = null, now = Date.now()) {
    const follows = kind !== null && kind === this.#kind && now - this.#changedAt < TOGETHER;
    if (!follows) this.#past.push(this.present);
    if (this.#past.length > LONGEST) this.#past.shift();
    this.#future = [];
    this.#kind = kind;
    this.#changedAt = now;
    this.present = next;
  }

  /** Put a value in the present one's place: looking elsewhere is nothing to undo. */
  replace(next) {
    this.present = next;
  }

  undo() {
    this.#step(this.#past, this.#future);
  }

  redo() {
    this.#step(this.#future, this.#past);
  }

  #step(from, to) {
    if (from.length === 0) return;
    to.push(this.present);
    this.present = from.pop();
    this.#kind = null;
  }
}
