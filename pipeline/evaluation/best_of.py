"""Draw what PPO and best-of-n sampling are compared on: completions of the same held-out prompts.

From the start max(n) + 1 completions a prompt, so that the best of any n has one left beside it
that it can be compared with; from each ``ppo`` policy ``samples``, with random numbers of their
own, so that their wins against the start's are those of independent draws. The run's reward model
scores each, the tiny world's gold judges its own prompts, and a policy's completions carry a
sample of its KL from the start:

    k1 = sum_t log pi(y_t | x, y_<t) - log pi_start(y_t | x, y_<t),   y ~ pi

which is ``objective/kl`` of PPO's log, here of the finished policy on held-out prompts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from pipeline.artifacts import hash_text, write_json
from pipeline.config.best_of import BestOfSection
from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers
from pipeline.evaluation.equal_kl import compare
from pipeline.evaluation.folder import EvaluationFolder, Part
from pipeline.evaluation.following import is_judged_by_gold
from pipeline.formatting import Formatter
from pipeline.judges import RewardJudge
from pipeline.losses import token_logprobs
from pipeline.masked import positions
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.rollout import lay_out
from pipeline.sampling import batches_by_length, check_room, sample_completions
from pipeline.tokenizer import load_tokenizer
from pipeline.world import World

BEST_OF = "best_of.json"
VERSION = 1
"""Of what is drawn and judged: part of what makes stored rows usable."""

Row = dict[str, Any]


class Subject(NamedTuple):
    """A stage's name, the folder of its model and the hash of its files."""

    stage: str
    path: Path
    hash: str


class BestOfEvaluator:
    """Draw and judge completions of a start and of the policies trained from it.

    Args:
        section: what to compare.
        prompts: held-out prompts.
        max_new_tokens: where a completion is cut.
        seed: the run's.
        workers: the processes at work; each answers every n-th prompt.
        folder: the evaluation's folder.
        start: the stage that best-of-n draws from.
        reward: the stage whose reward model picks.
        batch_size: sequences a forward pass.
    """

    def __init__(
        self,
        section: BestOfSection,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        seed: int,
        workers: Workers,
        folder: Path,
        start: Subject,
        reward: Subject,
        batch_size: int,
    ) -> None:
        self.section, self.seed, self.workers = section, seed, workers
        self.prompts = spread(prompts, section.limit)
        self.decoding = DecodingSection(
            temperature=section.temperature, max_new_tokens=max_new_tokens
        )
        self.folder, self.store = folder, EvaluationFolder(folder)
        self.start, self.reward, self.batch_size = start, reward, batch_size

    @functools.cached_property
    def start_model(self) -> Any:
        """Load the start's model, once, where something is to be drawn."""
        return self.workers.place(load_policy(self.start.path))

    @functools.cached_property
    def judge(self) -> RewardJudge:
        """Load the reward model, once, where something is to be judged."""
        return RewardJudge(self.reward.path, self.workers.device, self.batch_size)

    @functools.cached_property
    def world(self) -> World:
        """Make the tiny world, which knows what its own prompts ask for."""
        return World(self.seed)

    def evaluate(self, policies: Sequence[Subject]) -> dict[str, Any]:
        """Draw and judge what is missing, write ``best_of.json`` and return what is in it.

        Args:
            policies: the stages that were trained from the start.

        Raises:
            DataError: if a prompt leaves no room for its completion, or the reward model cannot
                read one.
        """
        drawn = max(self.section.n) + 1
        self._measure(self.start, first=0, count=drawn)
        for policy in policies:
            self._measure(policy, first=drawn, count=self.section.samples)
        return self.workers.on_main(lambda: self._compare([policy.stage for policy in policies]))

    def _compare(self, policies: Sequence[str]) -> dict[str, Any]:
        figures = {
            "stage": self.start.stage,
            "reward": self.reward.stage,
            "temperature": self.section.temperature,
            "max_new_tokens": self.decoding.max_new_tokens,
            **compare(
                self.store.rows(self.start.stage, "best_of"),
                {policy: self.store.rows(policy, "best_of") for policy in policies},
                self.section.n,
                self.seed,
            ),
        }
        write_json(self.folder / BEST_OF, figures)
        return figures

    def _measure(self, subject: Subject, *, first: int, count: int) -> None:
        """Draw and judge a stage's completions; where only the judge is new, judge them again."""
        stage, drawn = subject.stage, self._key(subject, first, count)
        key = f"{drawn} {self.reward.hash}"
        found = self.workers.on_main(lambda: self.store.key(stage, "best_of"))
        if found == key:
            return
        if found.split(" ")[0] == drawn:
            rows = self.workers.on_main(lambda: self.store.rows(stage, "best_of"))
        else:
            rows = self._draw(subject, range(first, first + count))
        judged = [{"stage": stage, **row} for row in self._judge(rows)]
        part = Part({"completions": len(judged)}, judged)
        self.workers.on_main(lambda: self.store.store(stage, "best_of", key, part))

    def _key(self, subject: Subject, first: int, count: int) -> str:
        """Return what a stage's completions depend on."""
        asked = [prompt.id for prompt in self.prompts]
        specs = [prompt.meta.get("world") for prompt in self.prompts]
        drawn = [self.decoding.temperature, self.decoding.max_new_tokens, first, count]
        models = [subject.hash, self.start.hash]
        return hash_text(
            json.dumps([VERSION, self.seed, models, drawn, asked, specs], sort_keys=True)
        )

    def _draw(self, subject: Subject, indices: range) -> list[Row]:
        """Return a row a completion, prompt after prompt."""
        formatter = Formatter(load_tokenizer(subject.path))
        is_start = subject == self.start
        model: Any = self.start_model if is_start else self.workers.place(load_policy(subject.path))
        check_room(model, formatter, self.prompts, self.decoding, "evaluate.best_of.prompts")
        own = list(enumerate(self.prompts))[self.workers.rank :: self.workers.world_size]
        parts = [own[i : i + self.batch_size] for i in range(0, len(own), self.batch_size)]
        rows: list[tuple[int, Row]] = []
        for part in tqdm(
            parts, desc=f"{subject.stage}: best of n", unit="batch", leave=False, disable=None
        ):
            asked = [(place, prompt, index) for place, prompt in part for index in indices]
            prompts = [prompt for _, prompt, _ in asked]
            answers = self._answer(model, formatter, prompts, [index for *_, index in asked])
            if not is_start:
                self._add_log_ratios(model, formatter, prompts, answers)
            rows += [(place, row) for (place, *_), row in zip(asked, answers, strict=True)]
        gathered = sorted(self.workers.gather_objects(rows), key=lambda item: item[0])
        return [{key: row[key] for key in row if key != "ids"} for _, row in gathered]

    def _answer(
        self, model: Any, formatter: Formatter, prompts: Sequence[Prompt], indices: Sequence[int]
    ) -> list[Row]:
        """Sample a completion for each prompt; the index tells those of one prompt apart."""
        samples = sample_completions(
            model,
            formatter,
            prompts,
            self.decoding,
            seed=self.seed,
            sample_index=indices,
            batch_size=self.batch_size,
        )
        return [
            {
                "prompt_id": prompt.id,
                "sample": index,
                "completion": sample.text,
                "finish_reason": sample.finish_reason,
                "ids": sample.ids,
            }
            for prompt, index, sample in zip(prompts, indices, samples, strict=True)
        ]

    def _add_log_ratios(
        self, model: Any, formatter: Formatter, prompts: Sequence[Prompt], rows: Sequence[Row]
    ) -> None:
        """Add to each completion its sample of the policy's KL from the start, in nats."""
        before = [formatter.prompt_ids(prompt.messages) for prompt in prompts]
        after = [row["ids"] for row in rows]
        ours, theirs = (
            sequence_logprobs(
                each, before, after, self.decoding.temperature, formatter.pad_id, self.batch_size
            )
            for each in (model, self.start_model)
        )
        for row, own, other in zip(rows, ours, theirs, strict=True):
            row["log_ratio"] = own - other

    def _judge(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with what the judges say.

        The same answer to a prompt is judged once, so that it ties with itself.
        """
        place = {prompt.id: i for i, prompt in enumerate(self.prompts)}
        world_size, rank = self.workers.world_size, self.workers.rank
        answers = sorted({(row["prompt_id"], row["completion"]) for row in rows})
        asked = [self.prompts[place[name]] for name, _ in answers]
        self.judge.check(asked, [text for _, text in answers])
        own = [key for key in answers if place[key[0]] % world_size == rank]
        prompts = [self.prompts[place[name]] for name, _ in own]
        scores = self.judge(prompts, [text for _, text in own]) if own else []
        said: list[tuple[tuple[str, str], Row]] = []
        for key, prompt, score in zip(own, prompts, scores, strict=True):
            judgment: Row = {"score": score}
            if is_judged_by_gold(prompt):
                verdict = self.world.gold(prompt, key[1])
                judgment |= {"followed": int(verdict.followed), "utility": verdict.utility}
            said.append((key, judgment))
        judgments = dict(self.workers.gather_objects(said))
        return [{**row, **judgments[row["prompt_id"], row["completion"]]} for row in rows]


def spread(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """Return at most ``limit`` prompts, evenly spaced through the list."""
    count = len(prompts) if limit is None else min(limit, len(prompts))
    return [prompts[i * len(prompts) // count] for i in range(count)]


@torch.no_grad()
def sequence_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    pad_id: int,
    batch_size: int,
) -> list[float]:
    """Return the log-probability of each completion, summed over its tokens, in nats.

    Args:
        model: a causal language model.
        prompts: token ids a row.
        completions: sampled ids a row, the end token included where it was sampled.
        temperature: divides the logits, as in sampling.
        pad_id: fills what is no token.
        batch_size: rows a forward pass; changes nothing but speed.
    """
    sums = [0.0] * len(prompts)
    whole = [[*before, *after] for before, after in zip(prompts, completions, strict=True)]
    for rows in batches_by_length(whole, batch_size):
        ids, attention_mask, mask = (
            tensor.to(model.device)
            for tensor in lay_out(
                [prompts[row] for row in rows], [completions[row] for row in rows], pad_id
            )
        )
        time = mask.shape[1]
        logits = model(
            input_ids=ids,
            attention_mask=attention_mask.long(),
            position_ids=positions(attention_mask),
            use_cache=False,
            logits_to_keep=time + 1,
        ).logits[:, :-1]
        logprobs = token_logprobs(logits / temperature, ids[:, -time:]).double()
        for row, total in zip(rows, torch.where(mask, logprobs, 0.0).sum(dim=1), strict=True):
            sums[row] = float(total)
    return sums
