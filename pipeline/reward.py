"""Train a reward model on rankings, and set its zero.

Ouyang et al. 2022, C.2: one element a prompt with all its pairs, one epoch (more overfits quickly),
a batch of prompts, cosine to a tenth, and in the end a bias so that demonstrations score 0.

Departures from the paper (see also ``pipeline.ranking_loss``):
1. Where several labelers ranked completions of one prompt, the prompt is still one element: each
   completion is scored once, and the prompt's loss is the mean over its judgments.
2. The bias is a number in the configuration (``score_offset``), for the plain class has no bias.
3. Adapters (LoRA) may be trained instead of all weights, and are merged at the end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn

from pipeline.checkpointing import (
    Ordered,
    RunFolderTrainer,
    Share,
    count_steps,
    epoch_order,
    training_arguments,
)
from pipeline.config.reward import RewardSection
from pipeline.config.training import LoraSection
from pipeline.cursors import permutation
from pipeline.distributed import Workers
from pipeline.errors import DataError
from pipeline.formatting import Formatter
from pipeline.judges import score_rows
from pipeline.ranking_data import RankedPrompt, RankingCollator, encode_rankings
from pipeline.ranking_loss import Ties, mark_pairs, pair_accuracy, ranking_loss, rating_margin
from pipeline.records import Demonstration, Ranking
from pipeline.runs import StageRun


class RewardTrainer(RunFolderTrainer):
    """Train a sequence classifier of one label on ranked prompts.

    Args:
        run: the stage's open folder.
        model: of ``models.new_reward_model``, with or without adapters.
        elements: what to train on, at least one.
        pad_id: what to pad with.
        section: the stage's configuration.
        seed: the run's seed.
    """

    def __init__(
        self,
        run: StageRun,
        model: nn.Module,
        elements: Sequence[RankedPrompt],
        pad_id: int,
        section: RewardSection,
        seed: int,
    ) -> None:
        assert isinstance(run.crew, Workers), "a trained stage runs on Workers"
        self._ties: Ties = section.ties
        shown = max(1, math.ceil(len(elements) * section.epochs - 1e-9))
        steps = count_steps(shown, 1, section.batch_size)
        # The last batch is filled up with nothing: repeated prompts would begin a second epoch.
        order = np.full(steps * section.batch_size, len(elements))
        order[:shown] = epoch_order(len(elements), shown, seed)
        super().__init__(
            run,
            model=model,
            args=training_arguments(
                section, run.folder, steps=steps, seed=seed, crew=run.crew, where=run.name
            ),
            train_dataset=Ordered([*elements, None], order),
            data_collator=RankingCollator(pad_id, section.margin),
            epoch_rows=len(elements),
        )

    def measure(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Share]:
        """Return the sums over a batch's prompts of loss and pair accuracy.

            loss = sum_prompts mean_judgments ranking_loss

        Args:
            model: the model, wrapped or not.
            inputs: of ``RankingCollator``, on the model's device.
        """
        flat = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).logits.squeeze(-1)
        scores, mask = flat[inputs["rows"]], inputs["mask"]
        pairs = mark_pairs(inputs["ranks"], mask)
        margin = rating_margin(inputs["ratings"])
        losses = ranking_loss(scores, mask, pairs, ties=self._ties, margin=margin)
        right = pair_accuracy(scores.detach(), mask, pairs, ties=self._ties)
        return {
            "loss": Share((losses / inputs["shares"]).sum(), inputs["prompts"]),
            "pair_accuracy": Share((right / inputs["shares"]).sum(), inputs["prompts"]),
        }

    def count_items(self, batch: Mapping[str, Any]) -> int:
        """Count the prompts, which the loss is averaged over."""
        return int(batch["prompts"])

    def save_adapter(self, folder: Path) -> None:
        """Write the adapters and the head alone, as PEFT loads them."""
        self._crew.unwrap(self.model).save_pretrained(folder)
        # PEFT's card is a form to fill in; the stage's own is in ``model/``.
        (folder / "README.md").unlink(missing_ok=True)

    def merged_model(self) -> Any:
        """Return the trained model, its adapters merged into the weights."""
        model = self._crew.unwrap(self.model)
        return model.merge_and_unload() if isinstance(model, PeftModel) else model


def add_adapters(model: nn.Module, lora: LoraSection, seed: int) -> nn.Module:
    """Freeze the trunk and add low-rank adapters; the head is trained whole."""
    modules = lora.target_modules
    adapters = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        modules_to_save=["score"],
    )
    torch.manual_seed(seed)  # PEFT draws the adapters from the global generator.
    with warnings.catch_warnings():
        # PEFT asks the model for a property that transformers has renamed.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted: nn.Module = get_peft_model(model, adapters)
    return adapted


def score_rankings(
    model: Any,
    rankings: Sequence[Ranking],
    formatter: Formatter,
    section: RewardSection,
    crew: Workers,
    where: str,
) -> list[list[float]]:
    """Score every completion of every ranking, before the offset, each distinct one once.

    Raises:
        DataError: if a prompt with its completion is longer than ``section.max_length``.
    """
    elements, _ = encode_rankings(rankings, formatter, section.max_length, ties="half", where=where)
    keys = [(element.prompt, text) for element in elements for text in element.texts]
    rows = [row for element in elements for row in element.ids]
    flat = score_rows(model, rows, formatter.pad_id, 4 * section.micro_batch_size, crew)
    known = dict(zip(keys, flat, strict=True))
    return [[known[r.prompt.id, text] for text in r.completions] for r in rankings]


def measure_offset(
    model: Any,
    demonstrations: Sequence[Demonstration],
    formatter: Formatter,
    section: RewardSection,
    crew: Workers,
    seed: int,
) -> tuple[float, int]:
    """Return what demonstrations score on average, and how many were drawn for it.

    At most ``section.demonstration_limit`` of those that fit in ``section.max_length``, drawn with
    the seed. Subtracted from every score, it gives demonstrations the mean 0 (C.2).

    Raises:
        DataError: if no demonstration fits.
    """
    rows = []
    for i in permutation(len(demonstrations), seed, "offset").tolist():
        demonstration = demonstrations[i]
        row = formatter.prompt_ids(demonstration.prompt.messages)
        row += formatter.completion_ids(demonstration.completion)
        if len(row) <= section.max_length:
            rows.append(row)
        if len(rows) == section.demonstration_limit:
            break
    if not rows:
        raise DataError(
            f"reward.demonstrations must hold one of at most {section.max_length} tokens, got none "
            f"among {len(demonstrations)}. Add demonstrations, or raise reward.max_length."
        )
    scores = score_rows(model, rows, formatter.pad_id, 4 * section.micro_batch_size, crew)
    return math.fsum(scores) / len(scores), len(scores)
