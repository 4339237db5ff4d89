/** Keep what stages have logged, and ask only for what is new. No DOM in here. */

/** What is shown first, where it was logged. */
const FIRST = ["objective/scores", "eval_loss", "loss"];

export class Curves {
  /** Each curve by its name: `{run, stage, cursor, rows}`. */
  #kept = new Map();

  /** Follow these stages, `{run, stage}`, and forget others. */
  follow(stages) {
    const kept = new Map();
    for (const { run, stage } of stages) {
      const name = `${run}/${stage}`;
      kept.set(name, this.#kept.get(name) ?? { run, stage, cursor: "", rows: [] });
    }
    this.#kept = kept;
  }

  /** What to ask the routes for; take the answer with `take`. */
  get asked() {
    return [...this.#kept.values()].map(({ run, stage, cursor }) => ({ run, stage, cursor }));
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
      if (part.fresh) curve.rows = [];
      curve.rows.push(...part.rows);
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
