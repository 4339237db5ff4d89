"""Fine-tune a policy on demonstrations, on TRL's ``SFTTrainer``.

Conversations are rendered and encoded by our ``Formatter`` before TRL sees them, so that SFT trains
on the same tokens that every other stage scores, samples and ranks. The loss is over the
assistant's tokens. TRL packs several examples into a row and creates the adapters; the loss and
the disk are ``RunFolderTrainer``'s, for TRL's own loss computes in float32 always and depends on
the grouping of micro-batches in its metrics.

Packed examples do not see one another: a row carries ``position_ids`` that start again at each
example and no attention mask, from which ``transformers`` masks attention by blocks (it does so
only without a cache). Padding is one more such example.

Departures from InstructGPT (Ouyang et al. 2022, C.1, C.3):
1. No residual dropout of 0.2: LLaMA's block has none. LoRA's dropout is there for small data.
2. The checkpoint is chosen by a metric on held-out demonstrations; theirs by the reward model.
3. Of the pretraining mix, a row holds ``max_length`` tokens of text, with the loss on all of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer, pack_dataset

from pipeline.checkpointing import (
    IGNORED,
    RunFolderTrainer,
    count_steps,
    epoch_order,
    training_arguments,
)
from pipeline.config.sft import SftSection
from pipeline.config.source import Source
from pipeline.config.training import LoraSection
from pipeline.data.conversations import read_demonstrations
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, DataError
from pipeline.formatting import Formatter
from pipeline.pretraining import draw_corpus
from pipeline.records import Demonstration
from pipeline.runs import StageRun
from pipeline.showing import Shown, ShowSamples, fixed_prompts

Row = Mapping[str, list[int]]
"""``input_ids``, ``labels``, and ``seq_lengths``: the tokens of each example in the row."""


PACKED_TOGETHER = 64
"""Examples that one round of packing sees."""


class SftData(NamedTuple):
    """The rows of a fine-tuning.

    Attributes:
        train: what is trained on, the pretraining mix at its end.
        validation: held-out demonstrations; None where there are none.
        examples: demonstrations in ``train``.
        pretrain_rows: rows of pretraining text in ``train``.
        shown: prompts whose completions are shown as training goes on.
    """

    train: Dataset
    validation: Dataset | None
    examples: int
    pretrain_rows: int
    shown: list[Shown]


class SftTrainer(RunFolderTrainer, SFTTrainer):
    """Be TRL's trainer with our loss, metrics and checkpoints."""

    def _send_telemetry(self) -> None:
        # TRL sends unless told not to; here the user has to ask for it.
        if os.environ.get("HF_HUB_DISABLE_TELEMETRY") in ("0", "false", "False"):
            super()._send_telemetry()


def read_sft_data(
    section: SftSection,
    formatter: Formatter,
    *,
    pretrain_sources: Sequence[Source],
    seed: int,
    where: str,
    made: Sequence[Demonstration] = (),
) -> SftData:
    """Read, encode and pack what a fine-tuning needs.

    Args:
        section: the fine-tuning's sources and sizes.
        formatter: of the policy's tokenizer.
        pretrain_sources: where the pretraining mix comes from.
        seed: the run's.
        where: the stage, for messages.
        made: demonstrations to train on beside those of ``data``.

    Raises:
        ConfigError: if there is no data, or a pretraining mix without sources.
        DataError: if an example is longer than ``max_length``.
    """
    if not section.data and not made:
        raise ConfigError(f"{where}.data must list at least one source, got none. Add one.")
    if section.pretrain_mix and not pretrain_sources:
        raise ConfigError(
            f"{where}.pretrain_mix must be 0 when pretrain.sources is empty, "
            f"got {section.pretrain_mix}. Add sources, or set it to 0."
        )

    def rows(demonstrations: Sequence[Demonstration], field: str) -> Dataset:
        encoded = encode_demonstrations(
            demonstrations, formatter, section.max_length, f"{where}.{field}"
        )
        shuffled = encoded.shuffle(seed=seed, keep_in_memory=True)
        return pack_rows(shuffled, section.max_length if section.packing else None)

    shown = [*read_demonstrations(section.data, seed), *made]
    train = rows(shown, "data")
    held_out = read_demonstrations(section.validation, seed)
    validation = rows(held_out, "validation") if held_out else None
    # m rows of text among n of demonstrations are a share of m / (m + n).
    mixed = round(len(train) * section.pretrain_mix / (1 - section.pretrain_mix))
    if mixed:
        corpus = draw_corpus(
            pretrain_sources,
            formatter.tokenizer,
            rows=mixed,
            context=section.max_length,
            seed=seed,
        )
        train = concatenate_datasets([train, _text_rows(corpus.rows).cast(train.features)])
    prompts = fixed_prompts(
        held_out or shown, formatter, section.sample_prompts, section.max_length
    )
    return SftData(train, validation, len(shown), mixed, prompts)


def encode_demonstrations(
    demonstrations: Iterable[Demonstration], formatter: Formatter, max_length: int, where: str
) -> Dataset:
    """Encode conversations; the labels leave out all that the assistant did not write.

    Raises:
        DataError: if examples are longer than ``max_length``; counts them and shows the first.
    """
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    long: list[str] = []
    for demonstration in demonstrations:
        encoded = formatter.conversation(demonstration.messages)
        if len(encoded.ids) > max_length:
            start = demonstration.prompt.messages[-1]["content"][:40]
            long.append(f"{len(encoded.ids)} tokens ({start!r}...)")
        ids.append(encoded.ids)
        labels.append(
            [token if written else IGNORED for token, written in zip(*encoded, strict=True)]
        )
    if long:
        raise DataError(
            f"{where}: an example must have at most max_length ({max_length}) tokens, got "
            f"{len(long)} longer, the first with {long[0]}. Shorten or remove them, or raise "
            "max_length."
        )
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def pack_rows(examples: Dataset, length: int | None) -> Dataset:
    """Put whole examples together in rows of at most ``length`` tokens; None keeps one a row.

    Best fit over all examples at once would put those of like length, often of like kind, in one
    row, and leave the batches uneven: it packs ``PACKED_TOGETHER`` neighbours at a time.
    """
    if length is None:
        return examples.add_column("seq_lengths", [[len(ids)] for ids in examples["input_ids"]])
    return pack_dataset(examples, length, "bfd", {"batch_size": PACKED_TOGETHER})


def _text_rows(rows: np.ndarray) -> Dataset:
    ids = rows.tolist()
    return Dataset.from_dict(
        {"input_ids": ids, "labels": ids, "seq_lengths": [[len(row)] for row in ids]}
    )


def collate_packed(pad_id: int) -> Callable[[Sequence[Row]], dict[str, Tensor]]:
    """Return a collator of packed rows: ``input_ids``, ``labels``, ``position_ids``, ``tokens``.

    A row is padded at its right by one more example of ``pad_id``, without labels.
    """

    def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), pad_id)
        labels = torch.full((len(rows), longest), IGNORED)
        positions = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            size = len(row["input_ids"])
            ids[i, :size] = torch.tensor(row["input_ids"])
            labels[i, :size] = torch.tensor(row["labels"])
            parts = [*row["seq_lengths"], longest - size]
            positions[i] = torch.cat([torch.arange(part) for part in parts])
        # The first token of an example follows from nothing, least of all from its neighbour.
        labels[positions == 0] = IGNORED
        tokens = torch.tensor(sum(len(row["input_ids"]) for row in rows))
        return {"input_ids": ids, "labels": labels, "position_ids": positions, "tokens": tokens}

    return collate


def fine_tune(
    run: StageRun,
    section: SftSection,
    policy: PreTrainedModel,
    formatter: Formatter,
    data: SftData,
    seed: int,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train a policy, and return the one of the chosen checkpoint and the stage's figures."""
    assert isinstance(run.crew, Workers), "fine-tuning runs on Workers"
    rows = len(data.train)
    steps = count_steps(rows, section.epochs, section.batch_size)
    order = epoch_order(rows, steps * section.batch_size, seed)
    arguments = training_arguments(
        section,
        run.folder,
        steps=steps,
        seed=seed,
        crew=run.crew,
        where=run.name,
        kind=SFTConfig,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        **_validation(section, data),
    )
    with warnings.catch_warnings():
        # PEFT asks the model by a name that transformers 5 is about to drop.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        trainer = SftTrainer(
            run,
            policy,
            arguments,
            data_collator=collate_packed(formatter.pad_id),
            train_dataset=data.train.select(order, keep_in_memory=True),
            eval_dataset=data.validation,
            processing_class=formatter.tokenizer,
            peft_config=_adapters(section.lora) if section.lora else None,
            epoch_rows=rows,
            callbacks=[ShowSamples(run, formatter, data.shown)],
        )
    trainer.fit()
    selected = trainer.restore_best()
    metrics: dict[str, Any] = {
        "train_loss": trainer.last("loss"),
        "tokens": trainer.state.num_input_tokens_seen,
        "steps": steps,
        "selected_step": selected,
        "examples": data.examples,
        "rows": rows,
        "pretrain_rows": data.pretrain_rows,
    }
    for name in ("eval_loss", "eval_mean_token_accuracy"):
        value = trainer.last(name, selected)
        if value is not None:
            metrics[name] = value
    trained: Any = trainer.model
    return trained.merge_and_unload() if section.lora else trained, metrics


def _validation(section: SftSection, data: SftData) -> dict[str, Any]:
    if data.validation is None:
        return {}
    chosen = {} if section.select_by == "last" else {"metric_for_best_model": section.select_by}
    once_an_epoch = count_steps(len(data.train), 1, section.batch_size)
    every = section.evaluate_every or once_an_epoch
    return {"eval_strategy": "steps", "eval_steps": every, **chosen}


def _adapters(lora: LoraSection) -> LoraConfig:
    named = lora.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=named if isinstance(named, str) else list(named),
    )
