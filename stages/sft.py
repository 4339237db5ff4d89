"""Fine-tune a policy on demonstrations; ``sft@ppo_init`` is PPO's start (InstructGPT C.3)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.artifacts import folder_hash
from pipeline.cards import write_card
from pipeline.config.pretrain import PretrainSection
from pipeline.config.run import RunConfig
from pipeline.config.sft import SftSection
from pipeline.data.hashes import fingerprint_sources, hash_sources
from pipeline.distributed import DTYPES, Workers
from pipeline.formatting import Formatter
from pipeline.models import check_adapters, load_policy, save_model, set_attention
from pipeline.pretraining import check_context
from pipeline.records import Demonstration
from pipeline.runs import StageRun, model_of, open_stage
from pipeline.self_instruct import bootstrap_demonstrations
from pipeline.sft import fine_tune, read_sft_data
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Run the stage or variant called ``name``."""
    section = config.section(name, SftSection)
    mixed = config.section("pretrain", PretrainSection).sources if section.pretrain_mix else []
    seeds = section.bootstrap.seeds if section.bootstrap else []
    read = [*section.data, *section.validation, *mixed, *seeds]
    crew = Workers(section.precision)
    with open_stage(
        config,
        name,
        parents=[section.init],
        sources=hash_sources(read, config.seed),
        crew=crew,
        force=force,
    ) as stage:
        if stage.skip:
            return
        stage.note_sources(fingerprint_sources(read))
        start = model_of(config, section.init)
        policy = load_policy(start, DTYPES[section.precision])
        check_context(policy, section.max_length, f"{name}.max_length")
        set_attention(policy, section.attention, name)
        if section.lora is not None:
            check_adapters(policy, section.lora, name)
        formatter = Formatter(load_tokenizer(start))
        made, counts = _bootstrap(stage, section, policy, formatter, start, config.seed)
        data = read_sft_data(
            section, formatter, pretrain_sources=mixed, seed=config.seed, where=name, made=made
        )
        trained, metrics = fine_tune(stage, section, policy, formatter, data, config.seed)
        metrics |= counts
        card = write_card(
            stage.manifest,
            origin={"stage": section.init},
            settings={
                "epochs": section.epochs,
                "batch_size": section.batch_size,
                "learning_rate": section.learning_rate,
                "pretrain_mix": section.pretrain_mix,
                "lora rank": section.lora.rank if section.lora else "none, all weights",
                "chosen by": section.select_by,
            },
            metrics=metrics,
        )

        def write(folder: Path) -> None:
            save_model(folder, trained, formatter.tokenizer, card)

        stage.save_model(write)
        stage.finish(metrics)


def _bootstrap(
    stage: StageRun,
    section: SftSection,
    policy: Any,
    formatter: Formatter,
    start: Path,
    seed: int,
) -> tuple[list[Demonstration], dict[str, int]]:
    """Let the initial model make demonstrations where the section asks for it."""
    if section.bootstrap is None:
        return [], {}
    assert isinstance(stage.crew, Workers), "fine-tuning runs on Workers"
    with stage.crew.autocast():
        made, figures = bootstrap_demonstrations(
            section.bootstrap,
            policy.to(stage.crew.device),
            formatter,
            folder=stage.folder,
            provenance={"stage": section.init, "model_hash": folder_hash(start)},
            seed=seed,
            max_length=section.max_length,
            crew=stage.crew,
        )
    return made, {f"bootstrap_{key}": value for key, value in figures.items()}


if __name__ == "__main__":
    sys.exit(run_stage_module("sft", run))
