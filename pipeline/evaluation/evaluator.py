"""Measure one stage's model after another: few-shot tasks, perplexity, instruction following.

What is asked is read once and is the same for every stage, so that stages can be compared question
by question. With several processes each takes every n-th document and prompt, and a share of every
task; rank 0 writes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.artifacts import hash_text
from pipeline.calibration import BinnedConfidence
from pipeline.config.evaluate import EvaluateSection
from pipeline.config.source import Source
from pipeline.data import read_documents, read_prompts
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import DataError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.cells import (
    Cells,
    hash_task,
    join,
    lacking,
    make_cells,
    recall,
    write_key,
)
from pipeline.evaluation.folder import EvaluationFolder, Part, PartName
from pipeline.evaluation.following import (
    is_judged_by_gold,
    judge_answers,
    record_answers,
    summarize_answers,
)
from pipeline.evaluation.harness import run_tasks
from pipeline.evaluation.perplexity import (
    DocumentLoss,
    measure_documents,
    summarize_confidence,
    summarize_losses,
)
from pipeline.evaluation.tasks import shots_of
from pipeline.evaluation.toxicity import ToxicityMeasure
from pipeline.formatting import Formatter
from pipeline.judges import RewardJudge
from pipeline.model_places import find_tokenizer
from pipeline.models import check_finite, load_base
from pipeline.records import Prompt
from pipeline.runs import PREVIOUS
from pipeline.sampling import check_room, sample_completions
from pipeline.world import World


class ModelUnderTest(NamedTuple):
    """A model, loaded, its tokenizer and the hash of its files."""

    stage: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    hash: str


class Evaluator:
    """Hold what is asked, and measure models on it.

    Args:
        section: what to measure.
        seed: the run's.
        workers: the processes at work.
        folder: the evaluation's folder.
        reward: the reward model's folder, where the run has one; it judges what the gold cannot.
        reward_hash: of that folder.
    """

    def __init__(
        self,
        section: EvaluateSection,
        seed: int,
        workers: Workers,
        folder: Path,
        reward: Path | None = None,
        reward_hash: str = "",
    ) -> None:
        self.section = section
        self.seed = seed
        self.workers = workers
        self.store = EvaluationFolder(folder)
        self.tasks = load_tasks(
            section.tasks,
            section.shots,
            seed,
            folder,
            data=section.data,
            limit=section.limit,
            write=workers.rank == 0,
        )
        self.asked = {
            name: hash_task(task, section.limit, seed) for name, task in self.tasks.items()
        }
        self.texts = list(read_texts(section.perplexity, section.perplexity_documents, seed))
        self.prompts = read_prompts(section.prompts, seed)
        self.world = World(seed)
        self.reward = (
            None if reward is None else RewardJudge(reward, workers.device, section.batch_size)
        )
        self.reward_hash = reward_hash
        self.toxicity = (
            None
            if section.toxicity is None
            else ToxicityMeasure(section.toxicity, seed, workers, section.batch_size)
        )

    def evaluate(self, stage: str, path: Path | str, model_hash: str) -> None:
        """Measure what is not yet measured of a stage's model.

        Args:
            stage: its name.
            path: its ``model/``; or whatever base ``load_base`` loads.
            model_hash: changes when the model does.
        """
        keys = self._keys(model_hash)
        found = self.workers.on_main(
            lambda: [part for part, key in keys.items() if self.store.key(stage, part) == key]
        )
        missing = [part for part in keys if part not in found]
        if "fewshot" in missing and self._recall_tasks(stage, model_hash):
            missing.remove("fewshot")
        if not missing:
            return
        if missing == ["following"] and self._judge_again(stage, keys["following"]):
            return
        dtype, beside = DTYPES[self.section.precision], find_tokenizer(Path(path))
        base = load_base(str(path), dtype, tokenizer=beside)
        check_finite(base.model, str(path))
        model = self.workers.freeze(base.model)
        tested = ModelUnderTest(stage, model, base.tokenizer, model_hash)
        measure = {
            "fewshot": self._measure_tasks,
            "perplexity": self._measure_texts,
            "following": self._measure_following,
            "toxicity": self._measure_toxicity,
        }
        for part in missing:
            measured = measure[part](tested)
            self._store(stage, part, keys[part], measured)

    def merge(self, stages: Sequence[str], rival: str) -> dict[str, dict[str, Any]]:
        """Write the files that hold all stages, and return the summary (``EvaluationFolder``)."""
        parts: tuple[PartName, ...] = ("fewshot", *(("toxicity",) if self.toxicity else ()))
        return self.store.merge(stages, rival, parts)

    def _keys(self, model_hash: str) -> dict[PartName, str]:
        """Return the parts that are asked for, each with what its figures depend on."""
        keys: dict[PartName, str] = {}
        if self.tasks:
            keys["fewshot"] = write_key(self._cells(model_hash))
        if self.texts:
            keys["perplexity"] = hash_text(f"{model_hash} with confidences")
        if self.prompts:
            keys["following"] = f"{hash_text(model_hash)} {self.reward_hash}"
        if self.toxicity:
            keys["toxicity"] = f"{hash_text(model_hash)} {self.toxicity.hash}"
        return keys

    def _store(self, stage: str, part: PartName, key: str, measured: Part) -> None:
        self.workers.on_main(lambda: self.store.store(stage, part, key, measured))

    def _cells(self, model_hash: str) -> Cells:
        shots = {name: shots_of(task, self.section.shots) for name, task in self.tasks.items()}
        settings = f"{self.section.precision}, {self.section.calibration_bins} bins"
        return make_cells(self.asked, shots, model_hash, settings)

    def _recall(self, stage: str, cells: Cells) -> Part:
        """Return what is known of these cells, here or where ``--force`` has set it aside."""
        folders = [self.store, EvaluationFolder(self.store.folder / PREVIOUS)]
        return self.workers.on_main(lambda: recall(folders, stage, cells))

    def _recall_tasks(self, stage: str, model_hash: str) -> bool:
        """Store the few-shot tasks without the model, if every cell of theirs is known."""
        cells = self._cells(model_hash)
        known = self._recall(stage, cells)
        if lacking(cells, known):
            return False
        self._store(stage, "fewshot", write_key(cells), known)
        return True

    def _measure_tasks(self, tested: ModelUnderTest) -> Part:
        cells = self._cells(tested.hash)
        known = self._recall(tested.stage, cells)
        for name, shots in lacking(cells, known).items():
            outcome = run_tasks(
                tested.model,
                tested.tokenizer,
                {name: self.tasks[name]},
                shots={name: shots},
                limit=self.section.limit,
                batch_size=self.section.batch_size,
                bins=self.section.calibration_bins,
                seed=self.seed,
                label=tested.stage,
                workers=self.workers,
            )
            rows = [{"stage": tested.stage, **row} for row in outcome.documents]
            known = join(cells, known, Part(outcome.figures, rows))
            done = {
                task: {count: cells[task][count] for count in found}
                for task, found in known.figures.items()
            }
            # A kill loses the task at work, not those before it.
            self._store(tested.stage, "fewshot", write_key(done), known)
        return known

    def _measure_texts(self, tested: ModelUnderTest) -> Part:
        own = self._own(list(enumerate(self.texts)))
        with self.workers.autocast():
            found = measure_documents(
                tested.model,
                tested.tokenizer,
                [text for _, text in own],
                self.section.batch_size,
                label=f"{tested.stage}: perplexity",
            )
        measured = [(i, loss) for (i, _), loss in zip(own, found.documents, strict=True)]
        ordered: list[tuple[int, DocumentLoss]] = sorted(
            self.workers.gather_objects(measured), key=lambda item: item[0]
        )
        rows = [
            {"stage": tested.stage, "text": i, **dataclasses.asdict(loss)} for i, loss in ordered
        ]
        confidences = BinnedConfidence()
        for each in self.workers.gather_objects([found.confidences]):
            confidences.merge(each)
        losses = [loss for _, loss in ordered]
        bins = self.section.calibration_bins
        figures = summarize_losses(losses) | summarize_confidence(losses, confidences, bins)
        return Part(figures, rows)

    def _measure_following(self, tested: ModelUnderTest) -> Part:
        formatter = Formatter(tested.tokenizer)
        decoding = self.section.decoding
        check_room(tested.model, formatter, self.prompts, decoding, "evaluate.prompts")
        own = self._own(list(enumerate(self.prompts)))
        prompts = [prompt for _, prompt in own]
        with self.workers.autocast():
            samples = sample_completions(
                tested.model,
                formatter,
                prompts,
                decoding,
                seed=self.seed,
                batch_size=self.section.batch_size,
            )
        answers = record_answers(prompts, samples, formatter)
        gathered: list[tuple[int, dict[str, Any]]] = self.workers.gather_objects(
            [
                (i, {**answer, "model": tested.hash})
                for (i, _), answer in zip(own, answers, strict=True)
            ]
        )
        ordered = [answer for _, answer in sorted(gathered, key=lambda item: item[0])]
        return self._judge(tested.stage, ordered)

    def _measure_toxicity(self, tested: ModelUnderTest) -> Part:
        assert self.toxicity is not None, "measured only where it is asked for"
        measured = self.toxicity.measure(tested.model, Formatter(tested.tokenizer))
        return Part(measured.figures, [{"stage": tested.stage, **row} for row in measured.rows])

    def _judge(self, stage: str, answers: Sequence[dict[str, Any]]) -> Part:
        rows = judge_answers(self.prompts, answers, self.world, self.reward)
        return Part(summarize_answers(rows), [{"stage": stage, **row} for row in rows])

    def _judge_again(self, stage: str, key: str) -> bool:
        """Judge stored completions anew, if they are this model's: only the judge is new."""

        def judge() -> bool:
            rows = self.store.rows(stage, "following")
            model_key = key.split(" ")[0]
            asked = [prompt.id for prompt in self.prompts]
            if [row["prompt_id"] for row in rows] != asked or any(
                hash_text(row["model"]) != model_key for row in rows
            ):
                return False
            self.store.store(stage, "following", key, self._judge(stage, rows))
            return True

        return self.workers.on_main(judge)

    def _own(self, items: Sequence[Any]) -> list[Any]:
        """Return this process's share."""
        return list(items[self.workers.rank :: self.workers.world_size])


def read_texts(sources: Sequence[Source], count: int, seed: int) -> Iterator[str]:
    """Yield held-out documents, about as many from each source, ``count`` in all if there are.

    Raises:
        DataError: if a source has none.
    """
    for place, source in enumerate(sources):
        share = count // len(sources) + (place < count % len(sources))
        limit = share if source.limit is None else min(share, source.limit)
        if not limit:
            continue
        limited = dataclasses.replace(source, limit=limit)
        texts = list(itertools.islice(read_documents(limited, seed), limit))
        if not texts:
            raise DataError(f"{source.path} must hold documents, got none. Remove the source.")
        yield from texts


def needs_reward(prompts: Sequence[Prompt]) -> bool:
    """Tell whether a prompt is there that only a reward model can judge."""
    return not all(is_judged_by_gold(prompt) for prompt in prompts)
