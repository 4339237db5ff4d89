"""Make the base: train it from scratch, train a given one further, or load it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.cards import write_card
from pipeline.config.pretrain import PretrainSection
from pipeline.config.run import RunConfig
from pipeline.data.hashes import fingerprint_sources, hash_sources
from pipeline.distributed import Workers
from pipeline.models import save_model, set_attention
from pipeline.pretraining import hash_base, pretrain, start_base
from pipeline.runs import open_stage
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Run the stage or variant called ``name``."""
    section = config.section(name, PretrainSection)
    crew = Workers(section.precision)
    read = section.sources if section.tokens else []
    sources = {**hash_sources(read, config.seed), **hash_base(config.top.base)}
    with open_stage(config, name, sources=sources, crew=crew, force=force) as stage:
        if stage.skip:
            return
        stage.note_sources(fingerprint_sources(read))
        base = start_base(section, config.top.base, config.seed, name)

        def write_tokenizer(folder: Path) -> None:
            base.tokenizer.save_pretrained(folder)

        metrics: dict[str, Any] = {
            "origin": base.origin,
            "parameters": base.model.num_parameters(),
            "vocab_size": len(base.tokenizer),
        }
        if section.tokens:
            set_attention(base.model, section.attention, name)
            # Its checkpoints are models alone: what they need to answer stands beside them.
            stage.save_model(write_tokenizer, "tokenizer")
            metrics |= pretrain(stage, section, base, config.seed)
        card = write_card(
            stage.manifest,
            origin=base.origin,
            settings={
                "tokens": section.tokens,
                "context": section.context,
                "batch_size": section.batch_size,
                "learning_rate": section.learning_rate,
                "precision": section.precision,
            },
            metrics=metrics,
        )

        def write(folder: Path) -> None:
            save_model(folder, base.model, base.tokenizer, card)

        stage.save_model(write)
        stage.finish(metrics)


if __name__ == "__main__":
    sys.exit(run_stage_module("pretrain", run))
