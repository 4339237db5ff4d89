"""Train a reward model on one side, ours or TRL's, in a process of its own.

``python -m benchmarks.reward_sides ORDER`` with ``Order`` as JSON; ``benchmarks.reward_vs_trl``
starts it. Both sides get the same weights and the same rankings: ours as they are, TRL's trainer as
their K (K - 1) / 2 pairs, shuffled as it does. A step sees as many comparisons on both, a forward
pass as many completions, within one.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback
from transformers.utils import logging

from benchmarks.machine import peak_memory
from benchmarks.side_by_side import answer
from benchmarks.subjects import SHAPES, draw_prompts, words_of
from pipeline.config.reward import RewardSection
from pipeline.distributed import Workers
from pipeline.formatting import Formatter
from pipeline.models import load_reward_model
from pipeline.ranking_accuracy import measure_accuracy
from pipeline.ranking_data import encode_rankings
from pipeline.records import Ranking
from pipeline.reward import RewardTrainer, score_rankings
from pipeline.runs import Manifest, StageRun
from pipeline.tokenizer import load_tokenizer

SEED = 0
LEXICON = 32
"""Words that completions are made of; each has a hidden worth."""
NOISE = 0.5
"""Standard deviation of what a labeler adds to the worth of a completion."""
PROMPT_TOKENS, SHORTEST, LONGEST = 24, 4, 24
MAX_LENGTH = PROMPT_TOKENS + LONGEST + 1


@dataclass(frozen=True)
class Order:
    """Say what a side has to do.

    Attributes:
        side: ``ours`` or ``trl``.
        shape: of the model, a key of ``subjects.SHAPES``.
        reward: folder of the model that is trained.
        k: completions a ranking.
        rankings: to train on, one a prompt.
        held_out: rankings to measure accuracy on.
        batch: rankings an optimizer step.
        micro_batch: rankings a forward pass.
        learning_rate: its peak.
        threads: to compute with.
    """

    side: str
    shape: str
    reward: str
    k: int
    rankings: int
    held_out: int
    batch: int
    micro_batch: int
    learning_rate: float
    threads: int


def draw_rankings(count: int, k: int, vocabulary: int, seed: int) -> list[Ranking]:
    """Draw rankings by a hidden rule: the worth of a completion's words, and a labeler's noise.

        utility = sum_i worth(w_i) / sqrt(n) + noise

    The worths depend on the lexicon alone; ``seed`` draws prompts, completions and noise.
    """
    worth = np.random.default_rng(SEED).normal(size=LEXICON)
    words = words_of(vocabulary)
    rng = np.random.default_rng([SEED, seed])
    rankings = []
    for prompt in draw_prompts(count, PROMPT_TOKENS, vocabulary, seed):
        drawn = [rng.integers(LEXICON, size=rng.integers(SHORTEST, LONGEST + 1)) for _ in range(k)]
        noise = rng.normal(scale=NOISE, size=k)
        utility = [worth[row].sum() / len(row) ** 0.5 for row in drawn] + noise
        ranks = (-utility).argsort().argsort() + 1
        texts = tuple(" ".join(words[i] for i in row) for row in drawn)
        rankings.append(Ranking(prompt, texts, tuple(int(rank) for rank in ranks)))
    return rankings


def pair_rows(rankings: Sequence[Ranking], formatter: Formatter) -> dict[str, list[list[int]]]:
    """Return every pair of every ranking as TRL's trainer takes them, encoded as ours are."""
    rows: dict[str, list[list[int]]] = {"chosen_ids": [], "rejected_ids": []}
    for ranking in rankings:
        head = formatter.prompt_ids(ranking.prompt.messages)
        encoded = [[*head, *formatter.completion_ids(text)] for text in ranking.completions]
        for i, j in itertools.combinations(range(len(encoded)), 2):
            best, worst = sorted((i, j), key=lambda place: ranking.ranks[place])
            rows["chosen_ids"].append(encoded[best])
            rows["rejected_ids"].append(encoded[worst])
    return rows


class Clock(TrainerCallback):
    """Note when each optimizer step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def train_ours(order: Order, rankings: list[Ranking], folder: Path, clock: Clock) -> Any:
    """Train with our K-wise stage and return the model."""
    section = section_of(order)
    formatter = Formatter(load_tokenizer(Path(order.reward)))
    elements, _ = encode_rankings(rankings, formatter, MAX_LENGTH, ties="drop", where="reward.data")
    run = StageRun(
        "reward", folder, Workers(section.precision), Manifest("reward", "running", 0, "")
    )
    model = load_reward_model(Path(order.reward))
    trainer = RewardTrainer(run, model, elements, formatter.pad_id, section, SEED)
    trainer.add_callback(clock)
    trainer.fit()
    return trainer.merged_model()


def train_trl(order: Order, rankings: list[Ranking], folder: Path, clock: Clock) -> Any:
    """Train with TRL's pairwise trainer and return the model."""
    from datasets import Dataset
    from trl import RewardConfig
    from trl import RewardTrainer as PairTrainer

    section = section_of(order)
    tokenizer = load_tokenizer(Path(order.reward))
    tokenizer.pad_token_id = Formatter(tokenizer).pad_id
    pairs = order.k * (order.k - 1) // 2
    together = order.micro_batch * order.k // 2
    steps = order.batch * pairs
    while steps % together:
        together -= 1
    trainer = PairTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            order.reward, dtype=torch.float32, num_labels=1
        ),
        args=RewardConfig(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=together,
            gradient_accumulation_steps=steps // together,
            learning_rate=order.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": section.min_lr_ratio},
            weight_decay=section.weight_decay,
            adam_beta1=section.adam_beta1,
            adam_beta2=section.adam_beta2,
            adam_epsilon=section.adam_epsilon,
            max_grad_norm=section.max_grad_norm,
            max_length=None,
            pad_to_multiple_of=None,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=SEED,
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(pair_rows(rankings, Formatter(tokenizer))),
        callbacks=[clock],
    )
    trainer.train()
    return trainer.model


def section_of(order: Order) -> RewardSection:
    """Return our stage's configuration; TRL's is made of it."""
    return RewardSection(
        batch_size=order.batch,
        micro_batch_size=order.micro_batch,
        learning_rate=order.learning_rate,
        max_length=MAX_LENGTH,
        checkpoint_every=10**6,
    )


def main() -> None:
    """Run one side: train, then measure accuracy on held-out rankings, the same way for both."""
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(order.threads)
    logging.set_verbosity_error()
    vocabulary = SHAPES[order.shape].vocabulary
    rankings = draw_rankings(order.rankings, order.k, vocabulary, seed=1)
    held_out = draw_rankings(order.held_out, order.k, vocabulary, seed=2)
    train, clock = {"ours": train_ours, "trl": train_trl}[order.side], Clock()
    with tempfile.TemporaryDirectory() as folder:
        model = train(order, rankings, Path(folder), clock)
    peak = peak_memory()
    formatter = Formatter(load_tokenizer(Path(order.reward)))
    crew = Workers("float32")
    scores = score_rankings(
        model, held_out, formatter, section_of(order), crew, "reward.validation"
    )
    accuracy = measure_accuracy(held_out, scores, SEED)
    # The first step warms up.
    comparisons = (len(clock.ends) - 1) * order.batch * order.k * (order.k - 1) / 2
    answer(
        {
            "comparisons_per_second": comparisons / (clock.ends[-1] - clock.ends[0]),
            "steps": len(clock.ends),
            "accuracy": accuracy["accuracy"],
            "low": accuracy["low"],
            "high": accuracy["high"],
            "peak_bytes": peak,
        }
    )


if __name__ == "__main__":
    main()
