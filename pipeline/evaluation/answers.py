"""Measure what answers to the held-out prompts are worth, and how far a policy went for them.

What finished stages answered is what instruction following was measured on; a checkpoint of PPO
answers the same prompts with the same random numbers. Each answer gets the tiny world's utility,
where it knows the prompt, and the reward model's score, where there is one; a policy's answers
carry a sample of its KL from what PPO started from,

    k1 = sum_t log pi(y_t | x, y_<t) - log pi_start(y_t | x, y_<t),   y ~ pi

where they were drawn from the whole distribution. Else nothing is known of it from them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_text
from pipeline.config.sampling import DecodingSection
from pipeline.distributed import DTYPES, Workers
from pipeline.evaluation.best_of import Subject, sequence_logprobs
from pipeline.evaluation.contestants import Contestant
from pipeline.evaluation.folder import EvaluationFolder, Part
from pipeline.evaluation.following import judge_answers, record_answers
from pipeline.formatting import Formatter
from pipeline.judges import RewardJudge
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.sampling import check_room, sample_completions
from pipeline.tokenizer import load_tokenizer
from pipeline.world import World

VERSION = 1
"""Of what is drawn and measured: part of what makes stored rows usable."""
KEPT = ("prompt_id", "completion", "utility", "log_ratio")

Row = dict[str, Any]


class AnswerMeter:
    """Measure contestants' answers, each once.

    Args:
        prompts: the held-out prompts that all have answered.
        decoding: how they answered.
        seed: the run's.
        workers: the processes at work; each takes every n-th answer.
        folder: the evaluation's folder.
        reward: the stage whose reward model scores, or None.
        batch_size: sequences a forward pass.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        decoding: DecodingSection,
        seed: int,
        workers: Workers,
        folder: Path,
        reward: Subject | None,
        batch_size: int,
    ) -> None:
        self.prompts, self.decoding, self.seed = prompts, decoding, seed
        self.workers, self.store = workers, EvaluationFolder(folder)
        self.reward, self.batch_size = reward, batch_size
        self._by_id = {prompt.id: prompt for prompt in prompts}

    @functools.cached_property
    def judge(self) -> RewardJudge | None:
        """Load the reward model, once, where something is to be scored."""
        if self.reward is None:
            return None
        return RewardJudge(self.reward.path, self.workers.device, self.batch_size)

    def measure(self, own: Contestant, start: Contestant | None) -> list[Row]:
        """Return a contestant's rows, one a prompt; what is stored is not measured again.

        Args:
            own: whose answers.
            start: what PPO started from; None for a contestant that did not.
        """
        said: list[Row] = []
        if own.step is None:
            said = self.workers.on_main(lambda: self.store.rows(own.name, "following"))
        drawn = self._key(own, start, said)
        key = f"{drawn} {self.reward.hash if self.reward else '-'}"
        found = self.workers.on_main(lambda: self.store.key(own.name, "win_rates"))
        if found.split(" ")[0] == drawn:
            rows = self.workers.on_main(lambda: self.store.rows(own.name, "win_rates"))
        else:
            rows = self._read(own, start, said)
        if found != key:
            rows = [{"stage": own.name, **row} for row in self._score(rows)]
            part = Part({"prompts": len(rows)}, rows)
            self.workers.on_main(lambda: self.store.store(own.name, "win_rates", key, part))
        return rows

    def _key(
        self, own: Contestant, start: Contestant | None, said: Sequence[Mapping[str, Any]]
    ) -> str:
        """Return what a contestant's rows depend on, beside the reward model."""
        answers = [[row.get(key) for key in ("prompt_id", "completion", "ids")] for row in said]
        asked = [[prompt.id, prompt.meta.get("world")] for prompt in self.prompts]
        models = [own.hash, start.hash if start else ""]
        drawn = [self.seed, self.workers.precision, vars(self.decoding)]
        parts = [VERSION, drawn, models, answers, asked]
        return hash_text(json.dumps(parts, sort_keys=True))

    def _read(self, own: Contestant, start: Contestant | None, said: Sequence[Row]) -> list[Row]:
        """Return a row a prompt: the answer, its gold utility, and its sample of the KL."""
        rows = list(said) if own.step is None else self._draw(own)
        if start is not None and is_whole(self.decoding) and all("ids" in row for row in rows):
            rows = self._add_log_ratios(own, start, rows)
        return [{key: row[key] for key in KEPT if key in row} for row in rows]

    def _draw(self, own: Contestant) -> list[Row]:
        """Let a checkpoint answer as the finished stages did, with the same random numbers."""
        places = range(self.workers.rank, len(self.prompts), self.workers.world_size)
        prompts = [self.prompts[i] for i in places]
        formatter = Formatter(load_tokenizer(own.tokenizer))
        policy: Any = self.workers.freeze(load_policy(own.path, DTYPES[self.workers.precision]))
        check_room(policy, formatter, self.prompts, self.decoding, "evaluate.prompts")
        with self.workers.autocast():
            samples = sample_completions(
                policy,
                formatter,
                prompts,
                self.decoding,
                seed=self.seed,
                batch_size=self.batch_size,
            )
        answers = record_answers(prompts, samples, formatter)
        rows = judge_answers(prompts, answers, World(self.seed), None)
        return self._gather(list(zip(places, rows, strict=True)))

    def _add_log_ratios(self, own: Contestant, start: Contestant, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with their samples of the policy's KL from the start, in nats."""
        formatter = Formatter(load_tokenizer(start.tokenizer))
        places = range(self.workers.rank, len(rows), self.workers.world_size)
        before = [formatter.prompt_ids(self._by_id[rows[i]["prompt_id"]].messages) for i in places]
        after = [rows[i]["ids"] for i in places]
        temperature, pad_id = self.decoding.temperature, formatter.pad_id
        # One after the other: only one of the two is in memory.
        ours, theirs = (
            sequence_logprobs(
                self.workers.place(load_policy(model.path)),
                before,
                after,
                temperature,
                pad_id,
                self.batch_size,
            )
            for model in (own, start)
        )
        ratios = zip(places, ours, theirs, strict=True)
        return self._gather([(i, {**rows[i], "log_ratio": a - b}) for i, a, b in ratios])

    def _score(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with the reward model's scores, without any where there is none."""
        bare = [{key: row[key] for key in KEPT if key in row} for row in rows]
        if self.judge is None:
            return bare
        prompts = [self._by_id[row["prompt_id"]] for row in bare]
        self.judge.check(prompts, [row["completion"] for row in bare])
        places = range(self.workers.rank, len(bare), self.workers.world_size)
        scores = self.judge([prompts[i] for i in places], [bare[i]["completion"] for i in places])
        scored = zip(places, scores, strict=True)
        return self._gather([(i, {**bare[i], "score": score}) for i, score in scored])

    def _gather(self, placed: list[tuple[int, Row]]) -> list[Row]:
        gathered = self.workers.gather_objects(placed)
        return [row for _, row in sorted(gathered, key=lambda item: item[0])]


def is_whole(decoding: DecodingSection) -> bool:
    """Tell whether completions are drawn from the model's whole distribution, at a temperature."""
    plain = DecodingSection(
        temperature=decoding.temperature, max_new_tokens=decoding.max_new_tokens
    )
    return decoding == plain and decoding.temperature > 0
