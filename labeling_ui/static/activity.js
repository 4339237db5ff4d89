/**
 * Measure the time a labeler works: while the page is visible and the person has done something in
 * the last minute. No break is counted as work, whatever the lease says.
 */

const IDLE = 60_000;
const TICK = 1000;
const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "scroll", "touchstart"];

export class ActiveClock {
  #lastSign = performance.now();
  #lastTick = performance.now();

  /** @param onTick called each second with whether the person is active. */
  constructor(onTick) {
    this.seconds = 0;
    for (const sign of SIGNS) {
      window.addEventListener(sign, () => this.#sign(), { passive: true, capture: true });
    }
    setInterval(() => {
      this.#tick();
      onTick(this.active);
    }, TICK);
  }

  /** Whether the page is visible and the person has done something in the last minute. */
  get active() {
    return document.visibilityState === "visible" && performance.now() - this.#lastSign < IDLE;
  }

  #sign() {
    this.#lastSign = performance.now();
  }

  #tick() {
    const now = performance.now();
    // A sleeping machine or a throttled page skips ticks: no more than two are made up for.
    if (this.active) this.seconds += Math.min(now - this.#lastTick, 2 * TICK) / 1000;
    this.#lastTick = now;
  }
}
