"""Run few-shot tasks on a model through lm_eval, and keep every document's outcome.

Three accuracies of a multiple-choice task differ in what chooses among the answers:

* ``acc``, lm_eval's: the largest log p(answer | context). This is the headline; ``stderr``, ``ece``
  and ``brier`` belong to it, and ``correct`` and ``confidence`` of a document do.
* ``acc_norm``, lm_eval's: the largest log-likelihood a character of the answer.
* ``acc_token``: the largest log-likelihood a token, InstructGPT's rule (Ouyang et al. 2022, App. D,
  which prints "lowest"); ``ece_token`` and ``brier_token`` belong to it.

A document's confidence is the chosen answer's share of the probability that the model gives to the
answers together, softmax over their log-likelihoods, as in lm_eval's ``brier_score``. For the rule
by token it is the softmax over the averages, which is no probability of anything.

A task's ``metadata.headline`` names another rule for ``acc``: ``acc_norm``, ``acc_token``, or
``acc_mutual_info``, the log-likelihood less that of the bare answer. Then ``stderr``, ``ece``,
``brier``, ``correct`` and ``confidence`` are that rule's, the softmax is over its scores, and
``acc_sum`` is the largest log p(answer | context).

Of the headline also: ``overconfidence``, mean confidence less accuracy; ``ece_chance``, the ECE of
a calibrated model with as many answers; ``temperature``, what the log-likelihoods would have to be
divided by; ``ece_mended``, the ECE then.

Other tasks, and those whose results lm_eval processes by a function of theirs, have lm_eval's own
metrics with ``METRIC_stderr`` over documents, and ``acc`` where the headline or one of them is an
accuracy or a match. Of BLEU, which is one figure of all documents, each document's row has the
counts that it is made from. Pairs of sentences have the figures of ``evaluation.bias``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from lm_eval.evaluator import evaluate
from scipy.special import softmax
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.calibration import (
    brier_score,
    chance_error,
    expected_calibration_error,
    standard_error,
)
from pipeline.distributed import Workers
from pipeline.evaluation.bias import read_pair, summarize_groups, summarize_pairs
from pipeline.evaluation.corpus_bleu import BLEU, count_matches
from pipeline.evaluation.examples import check_count
from pipeline.evaluation.likelihood import SharedPrefixLM
from pipeline.evaluation.loading import quiet
from pipeline.evaluation.questions import right_choices
from pipeline.evaluation.tasks import settings_of, shots_of
from pipeline.tempering import mend

logger = logging.getLogger(__name__)

ACCURACIES = ("acc", "exact_match", "em")

Figures = dict[str, float | int]
Document = dict[str, Any]


class FewShotOutcome(NamedTuple):
    """What a model did on the tasks.

    Attributes:
        figures: task to number of shots (as text) to the figures.
        documents: one row a document, task and number of shots.
    """

    figures: dict[str, dict[str, Figures]]
    documents: list[Document]


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Any],
    *,
    shots: Sequence[int] | Mapping[str, Sequence[int]],
    limit: int | None,
    batch_size: int,
    bins: int,
    seed: int,
    label: str = "few-shot",
    workers: Workers | None = None,
) -> FewShotOutcome:
    """Run every task at every number of shots.

    Args:
        model: a causal language model, placed on its device.
        tokenizer: the model's.
        tasks: from ``load_tasks``; they may be used again for the next model.
        shots: numbers of examples before a question, where a task has none of its own; or those of
            each task by its name.
        limit: documents a task, the first ones; None is all.
        batch_size: answers a forward pass, where they are not packed.
        bins: of the expected calibration error.
        seed: draws the examples of tasks that have no order of their own.
        label: whose the model is, for the progress bar and warnings.
        workers: processes that share the work, all with the same arguments, and all get the whole
            outcome; None is this one alone.

    Raises:
        ConfigError: if a task has fewer examples than shots.
    """
    outcome = FewShotOutcome({}, [])
    with quiet():
        lm = SharedPrefixLM(model, tokenizer, batch_size, workers)
    counts = (
        shots
        if isinstance(shots, Mapping)
        else {name: shots_of(task, shots) for name, task in tasks.items()}
    )
    cells = [(name, count) for name in tasks for count in counts[name]]
    bar = tqdm(cells, unit="task", leave=False, disable=None)
    for name, count in bar:
        bar.set_description(f"{label}: {name}")
        samples, aggregated = _run(lm, tasks[name], count, limit, seed)
        cut, lm.cut_contexts = lm.cut_contexts, 0
        rows, figures = _summarize(tasks[name], samples, aggregated, lm.token_counts, bins)
        if cut:
            figures["cut_contexts"] = cut
            if workers is None or workers.rank == 0:
                logger.warning(
                    "%s: %s, shots %d: %d contexts are longer than the model reads and were cut on "
                    "the left (cut_contexts).",
                    *(label, name, count, cut),
                )
        outcome.figures.setdefault(name, {})[str(count)] = figures
        outcome.documents.extend({"task": name, "shots": count, **row} for row in rows)
        lm.token_counts.clear()
    return outcome


def _run(
    lm: SharedPrefixLM, task: Any, shots: int, limit: int | None, seed: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the samples of one task in the order of its documents, and its own metrics."""
    name = task.task_name
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(seed)
    try:
        with quiet():
            done = evaluate(
                lm, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0, log_samples=True
            )
    except (AssertionError, ValueError):
        # lm_eval's samplers assert, and random.sample raises, that the examples suffice.
        check_count(task, shots)
        raise
    samples: list[dict[str, Any]] = done["samples"][name]
    first = samples[0]["filter"]
    samples = [sample for sample in samples if sample["filter"] == first]
    aggregated = {
        key.split(",")[0]: float(value)
        for key, value in done["results"][name].items()
        if key.endswith(f",{first}") and isinstance(value, int | float)
    }
    return sorted(samples, key=lambda sample: sample["doc_id"]), aggregated


def _summarize(
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    aggregated: Mapping[str, float],
    token_counts: Mapping[tuple[str, str], int],
    bins: int,
) -> tuple[list[Document], Figures]:
    """Return a row a document, and the figures."""
    settings = settings_of(task)
    read = getattr(task.config, "process_results", None)
    if task.OUTPUT_TYPE != "multiple_choice" or callable(read):
        rows = [_read_other(sample, settings.get("headline", "")) for sample in samples]
        return rows, _summarize_other(rows, aggregated)
    rows = [_read_choice(task, sample, token_counts) for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        if "groups" in settings:
            row["group"] = str(sample["doc"][settings["groups"]])
    if "pair" not in settings:
        return rows, summarize_choices(rows, bins) | summarize_groups(rows, "correct", "acc")
    first = settings["pair"]
    kept = ("doc", "group", "logliks", "tokens")
    rows = [
        {**{key: row[key] for key in kept if key in row}, **read_pair(row["logliks"], first)}
        for row in rows
    ]
    return rows, summarize_pairs(rows, first)


def _read_choice(
    task: Any, sample: Mapping[str, Any], token_counts: Mapping[tuple[str, str], int]
) -> Document:
    choices = task.doc_to_choice(sample["doc"])
    # A task with mutual information asks for the bare choices as well, after the others.
    pairs = [tuple(pair) for pair in sample["arguments"][: len(choices)]]
    responses = [float(loglik) for loglik, _ in sample["filtered_resps"]]
    logliks, bare = responses[: len(choices)], responses[len(choices) :]
    tokens = [token_counts[pair] for pair in pairs]
    right = right_choices(task, sample["doc"], choices)
    scores = {
        "acc": np.asarray(logliks),
        "acc_norm": np.divide(logliks, [len(choice) for choice in choices]),
        "acc_token": np.divide(logliks, tokens),
        **({"acc_mutual_info": np.subtract(logliks, bare)} if bare else {}),
    }
    correct = {rule: int(int(np.argmax(values)) in right) for rule, values in scores.items()}
    headline = settings_of(task).get("headline", "acc")
    own = {} if headline == "acc" else {"correct_sum": correct["acc"]}
    return {
        "doc": sample["doc_id"],
        "correct": correct[headline],
        "confidence": float(softmax(scores[headline]).max()),
        "correct_norm": correct["acc_norm"],
        "correct_token": correct["acc_token"],
        **own,
        # Where several choices are right, the likeliest of them stands for the outcome.
        "gold": max(right, key=lambda index: logliks[index], default=None),
        "logliks": logliks,
        "tokens": tokens,
        **({"scores": scores[headline].tolist()} if own else {}),
    }


def summarize_choices(rows: Sequence[Document], bins: int) -> Figures:
    """Summarise the documents of one multiple-choice task at one number of shots."""
    correct = [row["correct"] for row in rows]
    shares = [softmax(row.get("scores", row["logliks"])) for row in rows]
    sums = [row["correct_sum"] for row in rows if "correct_sum" in row]
    by_token = [softmax(np.divide(row["logliks"], row["tokens"])) for row in rows]
    return {
        "acc": float(np.mean(correct)),
        "stderr": standard_error(correct),
        "n": len(rows),
        **_calibrate(shares, correct, rows, bins, ""),
        **({"acc_sum": float(np.mean(sums))} if sums else {}),
        **_mend(shares, correct, rows, bins),
        "acc_norm": float(np.mean([row["correct_norm"] for row in rows])),
        "acc_token": float(np.mean([row["correct_token"] for row in rows])),
        **_calibrate(by_token, [row["correct_token"] for row in rows], rows, bins, "_token"),
    }


def _calibrate(
    shares: Sequence[Any],
    correct: Sequence[int],
    rows: Sequence[Document],
    bins: int,
    suffix: str,
) -> Figures:
    judged = [i for i, row in enumerate(rows) if row["gold"] is not None]
    confidence = [float(max(share)) for share in shares]
    return {
        f"ece{suffix}": expected_calibration_error(confidence, correct, bins),
        f"brier{suffix}": brier_score(
            [shares[i] for i in judged], [rows[i]["gold"] for i in judged]
        ),
    }


def _mend(
    shares: Sequence[Any], correct: Sequence[int], rows: Sequence[Document], bins: int
) -> Figures:
    """Return how far the confidence is off, what of it is chance, and what would mend it."""
    confidence = [float(max(share)) for share in shares]
    mended = mend(
        [row["scores"] if "scores" in row else row["logliks"] for row in rows],
        [row["gold"] for row in rows],
        correct,
        bins,
    )
    return {
        "overconfidence": float(np.mean(confidence) - np.mean(correct)),
        "ece_chance": chance_error(confidence, bins),
        "temperature": mended.temperature,
        "ece_mended": mended.error,
    }


def _read_other(sample: Mapping[str, Any], headline: str) -> Document:
    row: Document = {"doc": sample["doc_id"]}
    for metric in sample["metrics"]:
        with contextlib.suppress(TypeError, ValueError):
            row[metric] = float(sample[metric])
    if isinstance(sample.get(BLEU), list | tuple):
        row[f"{BLEU}_counts"] = count_matches(*sample[BLEU])
    found = next((metric for metric in (headline, *ACCURACIES) if metric in row), None)
    return row if found is None else {**row, "correct": row[found]}


def _summarize_other(rows: Sequence[Document], aggregated: Mapping[str, float]) -> Figures:
    figures: Figures = dict(aggregated)
    for metric, value in aggregated.items():
        values = [row[metric] for row in rows if metric in row]
        # Only a mean over documents has this error: F1 over a corpus, or BLEU, has not.
        if metric != "acc" and len(values) == len(rows) and np.isclose(np.mean(values), value):
            figures[f"{metric}_stderr"] = standard_error(values)
    if all("correct" in row for row in rows):
        correct = [row["correct"] for row in rows]
        figures |= {"acc": float(np.mean(correct)), "stderr": standard_error(correct)}
    return {**figures, "n": len(rows)}
