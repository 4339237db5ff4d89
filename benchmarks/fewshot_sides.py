"""Run few-shot tasks on one side, ours or lm_eval's ``HFLM``, in a process of its own.

``python -m benchmarks.fewshot_sides ORDER`` with ``Order`` as JSON;
``benchmarks.fewshot_vs_lm_eval`` starts it. Both sides load the same files, are asked the same by
the same ``lm_eval.evaluate``, and are timed from the first request that is built to the last
figure, the model loaded. Ours makes its language model within that time, for it tries the model
first.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.samplers import ContextSampler
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers.utils import logging

from benchmarks.machine import peak_memory
from benchmarks.side_by_side import Figures, answer
from pipeline.config.training import Precision
from pipeline.distributed import DTYPES, Workers
from pipeline.evaluation.likelihood import SharedPrefixLM
from pipeline.evaluation.loading import build_task, quiet
from pipeline.evaluation.tasks import read_task
from pipeline.models import load_policy
from pipeline.tokenizer import load_tokenizer

SEED = 0
FALLBACK_BATCH = 8
"""Sequences a pass of ours where it cannot pack; the benchmark's models it can."""


@dataclass(frozen=True)
class Order:
    """Say what a side has to do.

    Attributes:
        side: ``ours`` or ``hflm``.
        model: folder of the model.
        tasks: JSONL files.
        examples: the last rows of each, which are shown and never asked.
        documents: questions of each, the first ones.
        shots: examples before a question.
        per_document: draw examples for each question anew, instead of the same for all.
        batch_sizes: of ``HFLM``; with several, each is timed after one pass that is not.
        threads: that it may compute with.
        precision: ours in another one than float32.
    """

    side: str
    model: str
    tasks: list[str]
    examples: int
    documents: int
    shots: int
    per_document: bool
    batch_sizes: list[int]
    threads: int
    precision: Precision = "float32"


def load_questions(order: Order, folder: Path) -> dict[str, Any]:
    """Return lm_eval's tasks by name, which show what the order wants."""
    made = {}
    for path in order.tasks:
        local = read_task(Path(path), order.examples)
        task = build_task(local, folder)
        if order.per_document:
            task.sampler = ContextSampler([dict(row) for row in local.examples])
        task.set_config("num_fewshot", order.shots)
        task.set_fewshot_seed(SEED)
        made[local.name] = task
    return made


def measure(lm: Any, tasks: dict[str, Any], documents: int) -> Figures:
    """Run every task, and return its seconds, its accuracies and each document's answers."""
    found: Figures = {}
    for name, task in tasks.items():
        task.set_fewshot_seed(SEED)
        begin = time.perf_counter()
        with quiet():
            done = evaluate(lm, {"tasks": {name: task}}, limit=documents, bootstrap_iters=0)
        seconds = time.perf_counter() - begin
        samples = sorted(done["samples"][name], key=lambda sample: sample["doc_id"])
        results = done["results"][name]
        found[name] = {
            "seconds": seconds,
            "documents": len(samples),
            **{key: results[f"{key},none"] for key in ("acc", "acc_norm")},
            "logliks": [[answered[0] for answered in row["filtered_resps"]] for row in samples],
            "greedy": [[answered[1] for answered in row["filtered_resps"]] for row in samples],
        }
    return found


def run_ours(order: Order, tasks: dict[str, Any]) -> Figures:
    """Measure our side."""
    workers = Workers(order.precision)
    model: Any = workers.freeze(load_policy(Path(order.model), DTYPES[order.precision]))
    tokenizer = load_tokenizer(Path(order.model))
    begin = time.perf_counter()
    with quiet():
        lm = SharedPrefixLM(model, tokenizer, FALLBACK_BATCH, workers)
    making = time.perf_counter() - begin
    return {"making": making, "tasks": measure(lm, tasks, order.documents)}


def run_hflm(order: Order, tasks: dict[str, Any]) -> Figures:
    """Measure lm_eval's own side, as ``lm_eval --model hf`` makes it."""
    with quiet():
        lm = HFLM(order.model, device="cpu", dtype="float32", batch_size=order.batch_sizes[0])
    if len(order.batch_sizes) == 1:
        return {"making": 0.0, "tasks": measure(lm, tasks, order.documents)}
    measure(lm, tasks, 1)
    seconds = {}
    for size in order.batch_sizes:
        lm.batch_size_per_gpu = size
        found = measure(lm, tasks, order.documents)
        seconds[str(size)] = sum(task["seconds"] for task in found.values())
    return {"seconds": seconds}


SIDES: dict[str, Callable[[Order, dict[str, Any]], Figures]] = {
    "ours": run_ours,
    "hflm": run_hflm,
}


def main(arguments: Sequence[str]) -> None:
    """Run one side."""
    order = Order(**json.loads(arguments[0]))
    torch.set_num_threads(order.threads)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        with quiet():
            tasks = load_questions(order, Path(folder))
        figures = SIDES[order.side](order, tasks)
    answer({**figures, "peak_bytes": peak_memory()})


if __name__ == "__main__":
    main(sys.argv[1:])
