/**
 * A labeler's work on one task, as a plain JSON value that is never changed in place: what a draft
 * holds, what undo goes back to, and what a judgment is made of. No DOM in here.
 */

import { contradictions, fromRanks, inWords, letterOf, toRanks, unranked } from "./tiers.js";

/** Return the ids of a task's outputs in the presented order. */
export function idsOf(task) {
  return task.completions.map((completion) => completion.id);
}

/** Return untouched work on a task. */
export function blankWork(task) {
  const shared = { comment: "", prompt_flags: {} };
  if (task.kind === "demonstration") return { ...shared, text: "" };
  const judged = { ...shared, tiers: [], none_acceptable: false };
  if (task.kind === "comparison") return judged;
  return { ...judged, step: "rate", at: 0, ratings: {}, flags: {} };
}

/**
 * Return the work that a draft holds. A draft may come from another version of the page, so only
 * what fits the task is taken.
 */
export function readDraft(task, content) {
  const ids = idsOf(task);
  const work = blankWork(task);
  const take = (name, fits) => {
    if (name in work && fits(content?.[name])) work[name] = content[name];
  };
  take("comment", isText);
  take("text", isText);
  take("none_acceptable", (value) => typeof value === "boolean");
  take("step", (value) => value === "rate" || value === "rank");
  take("at", (value) => Number.isInteger(value) && value >= 0 && value < ids.length);
  take("prompt_flags", isObject);
  take("tiers", Array.isArray);
  take("ratings", isObject);
  take("flags", isObject);
  if (work.tiers) work.tiers = knownTiers(ids, work.tiers);
  if (work.ratings) work.ratings = known(ids, work.ratings);
  if (work.flags) work.flags = known(ids, work.flags);
  if (work.step === "rank" && unrated(task, work).length > 0) work.step = "rate";
  return work;
}

/** Return the work that a submitted judgment or answer says, to be edited. */
export function readSubmitted(task, submitted) {
  const ids = idsOf(task);
  const tiers = submitted.ranks ? fromRanks(ids, submitted.ranks) : [];
  return readDraft(task, { ...submitted, tiers, step: "rank", ratings: submitted.ratings ?? {} });
}

/** Return the judgment or the answer to submit. */
export function toSubmission(task, work, activeSeconds) {
  const shared = {
    comment: work.comment,
    prompt_flags: work.prompt_flags,
    active_seconds: Math.round(activeSeconds * 10) / 10,
  };
  if (task.kind === "demonstration") return { ...shared, text: work.text };
  return {
    ...shared,
    ranks: toRanks(work.tiers),
    ratings: task.kind === "ranking" ? work.ratings : null,
    flags: task.kind === "ranking" ? work.flags : {},
    none_acceptable: work.none_acceptable,
  };
}

/** Return what a submission says, without the time it took: equal words need no second key. */
export function saying(submission) {
  return JSON.stringify({ ...submission, active_seconds: null }, (_, value) =>
    isObject(value) ? Object.fromEntries(Object.entries(value).sort(byName)) : value,
  );
}

/** Return the outputs that have no rating yet. */
export function unrated(task, work) {
  return idsOf(task).filter((id) => !(id in work.ratings));
}

/** Say what is missing before the work can be submitted, or return null. */
export function missing(task, work) {
  const ids = idsOf(task);
  const letters = (some) => inWords(some.map((id) => letterOf(ids, id)));
  if (task.kind === "demonstration") {
    return work.text.trim() ? null : "Write an answer first.";
  }
  if (task.kind === "comparison") {
    return work.tiers.length ? null : "Choose A, B or a tie first.";
  }
  const open = unrated(task, work);
  if (open.length) return `Rate ${letters(open)} first.`;
  const left = unranked(ids, work.tiers);
  return left.length ? `Rank ${letters(left)} first.` : null;
}

/** Say in words where the work contradicts itself. */
export function doubts(task, work) {
  if (task.kind !== "ranking") return [];
  return contradictions(idsOf(task), work.tiers, work.ratings, work.none_acceptable);
}

/** Return the work with a yes/no answer about an output or the prompt; a no leaves no trace. */
export function withFlag(flags, name, yes) {
  const { [name]: _, ...others } = flags;
  return yes ? { ...others, [name]: true } : others;
}

function known(ids, values) {
  return Object.fromEntries(Object.entries(values).filter(([id]) => ids.includes(id)));
}

function knownTiers(ids, tiers) {
  const seen = new Set();
  const first = (id) => ids.includes(id) && !seen.has(id) && seen.add(id);
  return tiers
    .filter(Array.isArray)
    .map((tier) => tier.filter(first))
    .filter((tier) => tier.length > 0);
}

function byName([one], [other]) {
  return one < other ? -1 : 1;
}

function isText(value) {
  return typeof value === "string";
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
