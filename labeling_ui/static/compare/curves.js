/** Keep what stages have logged, and ask only for what is new. No DOM in here. */

/** As many as one question may name. */
const AT_ONCE = 24;
/** What is shown first, where it was logged. */
const FIRST = ["objective/scores", "eval_loss", "loss"];

export class Curves {
  /** Each curve by its name: `{run, stage, cursor, rows, skipped}`. */
  #kept = new Map();

  /** Follow these stages, `{run, stage}`, and forget others. */
  follow(stages) {
    const kept = new Map();
    for (const { run, stage } of stages) {
      const name = `${run}/${stage}`;
      kept.set(name, this.#kept.get(name) ?? { run, stage, cursor: "", rows: [], skipped: 0 });
    }
    this.#kept = kept;
  }

  /** What to ask the routes for, a question each; take the answer with `take`. */
  get questions() {
    const asked = [...this.#kept.values()].map(({ run, stage, cursor }) => ({ run, stage, cursor }));
    const starts = Array.from({ length: Math.ceil(asked.length / AT_ONCE) }, (_, at) => at * AT_ONCE);
    return starts.map((start) => asked.slice(start, start + AT_ONCE));
  }

  /**
   * Take what was logged since.
   *
   * @param asked what was asked for; a curve that is no longer followed is left out.
   * @param parts as the routes tell them, in the same order.
   * @returns whether there is more to ask for at once.
   */
  take(asked, parts) {
    let more = false;
    asked.forEach(({ run, stage, cursor }, at) => {
      const curve = this.#kept.get(`${run}/${stage}`);
      // Two answers to the same question would count its rows twice.
      if (!curve || curve.cursor !== cursor) return;
      const part = parts[at];
      if (part.fresh) [curve.rows, curve.skipped] = [[], 0];
      curve.rows.push(...part.rows);
      curve.skipped += part.skipped;
      curve.cursor = part.cursor;
      more ||= part.more;
    });
    return more;
  }

  /** The names of all figures that were logged, without the steps. */
  get metrics() {
    const found = new Set();
    for (const { rows } of this.#kept.values()) {
      for (const row of rows) for (const key of Object.keys(row)) found.add(key);
    }
    found.delete("step");
    return [...found].sort();
  }

  /** The curves some lines of whose logs could not be read, `[name, lines]`. */
  get damaged() {
    return [...this.#kept].filter(([, { skipped }]) => skipped > 0).map(([name, { skipped }]) => [name, skipped]);
  }

  /** The metric to begin with, or an empty name. */
  get first() {
    const { metrics } = this;
    return FIRST.find((name) => metrics.includes(name)) ?? metrics[0] ?? "";
  }

  /** A line for each curve: `{name, points: [[step, value]]}`, in the order of the steps. */
  lines(metric) {
    return [...this.#kept].map(([name, { rows }]) => {
      const points = rows.filter((row) => metric in row).map((row) => [row.step, row[metric]]);
      return { name, points: points.sort((one, other) => one[0] - other[0]) };
    });
  }
}
