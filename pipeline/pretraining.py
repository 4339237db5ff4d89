"""Make the base of the line: train it from scratch, train a given one further, or load it.

Documents are concatenated, each with its begin and end token, and cut into rows of the context's
length; the loss is over all tokens.

Departures from LLaMA (Touvron et al. 2023):
1. The documents are held in memory, drawn and shuffled once by the seed.
2. What is left of the mixture after the last whole batch is not trained on.

As in LLaMA and GPT-3, a row may hold several documents and attention crosses their borders: the
end token tells the model that what came before is another text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from pipeline.artifacts import hash_file, hash_text
from pipeline.checkpointing import Ordered, RunFolderTrainer, epoch_order, training_arguments
from pipeline.config.pretrain import PretrainSection
from pipeline.config.source import Source
from pipeline.data.mixture import MixtureRow, mix_documents
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter, encode_document
from pipeline.models import Base, load_base, new_llama
from pipeline.runs import StageRun
from pipeline.showing import ShowSamples, text_starts
from pipeline.tokenizer import train_tokenizer


class Corpus(NamedTuple):
    """Packed text, and the table of what it was mixed from.

    Attributes:
        rows: token ids, [rows, context].
        mixture: one line a source.
    """

    rows: np.ndarray
    mixture: list[MixtureRow]


def draw_corpus(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: int,
    context: int,
    seed: int,
) -> Corpus:
    """Mix documents by weight and pack them into rows.

    Args:
        sources: what to mix.
        tokenizer: of the model.
        rows: how many rows to fill.
        context: tokens a row.
        seed: the run's seed.
    """
    encoded: dict[str, np.ndarray] = {}

    def count(text: str) -> int:
        if text not in encoded:
            encoded[text] = np.array(encode_document(tokenizer, text), dtype=np.int32)
        return len(encoded[text])

    documents, mixture = mix_documents(sources, seed, rows * context, count)
    stream = np.concatenate([encoded[text] for text in documents])
    return Corpus(stream[: rows * context].reshape(rows, context), mixture)


def start_base(section: PretrainSection, base: str | None, seed: int, where: str) -> Base:
    """Load the base, or initialise a new one with a tokenizer trained on the mixture.

    Args:
        section: the stage's configuration.
        base: what to load; None starts anew.
        seed: the run's seed.
        where: the section's name, for messages.
    Raises:
        ConfigError: if the context is longer than the base's.
    """
    dtype = DTYPES[section.precision]
    if base is not None:
        loaded = load_base(base, dtype)
        if section.tokens:
            check_context(loaded.model, section.context, f"{where}.context")
        return loaded
    documents, _ = mix_documents(
        section.sources, seed, section.tokenizer_documents, lambda _text: 1
    )
    tokenizer = train_tokenizer(documents, section.vocab_size)
    set_seed(seed)
    model = new_llama(section.model, tokenizer, section.context, dtype)
    return Base(model, tokenizer, {"base": "trained from scratch"})


def check_context(model: PreTrainedModel, length: int, where: str) -> None:
    """Refuse sequences that the model has no positions for.

    Raises:
        ConfigError: naming the setting ``where``.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ConfigError(
            f"{where} must be at most the model's context ({limit}), got {length}. Lower it."
        )


def hash_base(base: str | None) -> dict[str, str]:
    """Hash a base that lies in a file or folder, so that a change of it is noticed.

    Returns:
        Path to hash; a name on the hub is its own.
    """
    if base is None:
        return {}
    path = Path(base).expanduser()
    if path.is_file():
        return {base: hash_file(path)}
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return {base: hash_text("".join(f"{f.name}\0{hash_file(f)}\n" for f in files))}
    return {base: f"hub:{base}"}


def count_pretraining_steps(section: PretrainSection, where: str) -> int:
    """Return the optimizer steps that ``tokens`` fill.

    Raises:
        ConfigError: if they do not fill one batch.
    """
    batch = section.batch_size * section.context
    if section.tokens < batch:
        raise ConfigError(
            f"{where}.tokens must fill one batch of batch_size x context ({section.batch_size} x "
            f"{section.context} = {batch}), got {section.tokens}. Raise it, or lower batch_size."
        )
    return section.tokens // batch


def pretrain(run: StageRun, section: PretrainSection, base: Base, seed: int) -> dict[str, Any]:
    """Train the base's model in place and return the stage's final figures."""
    assert isinstance(run.crew, Workers), "pretraining runs on Workers"
    steps = count_pretraining_steps(section, run.name)
    rows = steps * section.batch_size
    corpus = draw_corpus(
        section.sources, base.tokenizer, rows=rows, context=section.context, seed=seed
    )
    mixture = [dataclasses.asdict(row) for row in corpus.mixture]
    if not run.resume_step:
        run.metrics.write(0, {"mixture": mixture})
    formatter = Formatter(base.tokenizer)
    shown = text_starts(corpus.rows, formatter, section.sample_prompts)
    trainer = RunFolderTrainer(
        run,
        base.model,
        training_arguments(
            section, run.folder, steps=steps, seed=seed, crew=run.crew, where=run.name
        ),
        data_collator=collate_rows,
        train_dataset=Ordered(corpus.rows, epoch_order(rows, rows, seed)),
        epoch_rows=rows,
        callbacks=[ShowSamples(run, formatter, shown)],
    )
    trainer.fit()
    return {
        "train_loss": trainer.last("loss"),
        "steps": steps,
        "tokens": trainer.state.num_input_tokens_seen,
        "mixture": mixture,
    }


def collate_rows(rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Stack packed rows; every token is to be predicted."""
    ids = torch.from_numpy(np.stack(rows)).long()
    return {"input_ids": ids, "labels": ids}
