"""Optimise the policy: ``steerline ppo CONFIG``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.cards import write_card
from pipeline.config.ppo import PpoSection
from pipeline.config.pretrain import PretrainSection
from pipeline.config.run import RunConfig
from pipeline.config.schema import to_plain
from pipeline.config.source import Source
from pipeline.data import hash_sources, read_prompts
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter
from pipeline.models import (
    load_policy,
    load_value_model,
    new_value_model,
    save_model,
    set_attention,
    zero_value_model,
)
from pipeline.ppo import Models, PPOTrainer
from pipeline.pretraining import draw_corpus
from pipeline.reward_sources import OpenRewards, hash_rewards, open_rewards
from pipeline.runs import StageRun, model_of, open_stage
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Train a policy by PPO, with pretraining gradients where ``ptx_coef`` is positive."""
    section = config.section(name, PpoSection)
    texts = _ptx_sources(config, name, section)
    workers = Workers(section.precision)
    sources = hash_sources([*section.prompts, *texts], config.seed)
    sources |= workers.on_main(lambda: hash_rewards(section, name))
    parents = [section.init, *section.reward_stages]
    with open_stage(
        config, name, parents=parents, sources=sources, crew=workers, force=force
    ) as stage:
        if stage.skip:
            return
        formatter = Formatter(load_tokenizer(model_of(config, section.init)))
        prompts = read_prompts(section.prompts, config.seed)
        folders = {parent: model_of(config, parent) for parent in section.reward_stages}
        rewards = open_rewards(section, workers, formatter, folders, prompts, name)
        stage.note_sources(rewards.revisions)
        models = _load(config, section, stage, rewards)
        trainer = PPOTrainer(
            section,
            workers,
            formatter,
            models,
            prompts=prompts,
            ptx_sequences=_draw_ptx(config, section, models, formatter) if texts else None,
            seed=config.seed,
        )
        if stage.resume_from:
            trainer.load_state(stage.resume_from)
        figures = trainer.train(stage)
        _save(stage, section, trainer)
        # Times differ from run to run; they are in metrics.jsonl.
        stage.finish({k: v for k, v in figures.items() if not k.startswith("perf/")})


def _ptx_sources(config: RunConfig, name: str, section: PpoSection) -> Sequence[Source]:
    if not section.ptx_coef:
        return []
    texts = section.ptx_sources or config.section("pretrain", PretrainSection).sources
    if not texts:
        raise ConfigError(
            f"{name}.ptx_sources must list pretraining text when ptx_coef is "
            f"{section.ptx_coef:g}, got []. Add sources, or set ptx_coef: 0."
        )
    return texts


def _load(config: RunConfig, section: PpoSection, stage: StageRun, rewards: OpenRewards) -> Models:
    """Load the models: the trained ones from the checkpoint that is resumed, if there is."""
    dtype = DTYPES[section.precision]
    start = model_of(config, section.init)
    resumed = stage.resume_from
    policy = load_policy(resumed / "policy" if resumed else start, dtype)
    if section.activation_checkpointing:
        policy.gradient_checkpointing_enable()
    average = None
    if section.ema_decay is not None:
        average = load_policy(resumed / "average" if resumed else start, dtype)
    if resumed:
        value = load_value_model(resumed / "value", dtype)
    elif rewards.value_start is not None:
        value = new_value_model(rewards.value_start, dtype)
    else:
        value = zero_value_model(start, dtype)
    models = Models(
        policy=policy,
        ref_policy=load_policy(start, dtype),
        reward=rewards.reward,
        value_model=value,
        average=average,
    )
    for model in (policy, value, models.ref_policy):
        set_attention(model, section.attention, stage.name)
    return models


def _draw_ptx(
    config: RunConfig, section: PpoSection, models: Models, formatter: Formatter
) -> Tensor:
    """Draw the pretraining sequences, [sequences, tokens], for the whole training."""
    steps = section.iterations * section.num_ppo_epochs * section.minibatches
    corpus = draw_corpus(
        _ptx_sources(config, "ppo", section),
        formatter.tokenizer,
        rows=min(section.ptx_pool, steps * section.ptx_minibatch_size),
        context=section.ptx_length or models.policy.config.max_position_embeddings,
        seed=config.seed,
    )
    return torch.from_numpy(corpus.rows).long()


def _save(stage: StageRun, section: PpoSection, trainer: PPOTrainer) -> None:
    """Save the policy (its moving average where there is one) and the value model."""
    tokenizer, unwrap = trainer.formatter.tokenizer, trainer.workers.unwrap
    policy = unwrap(trainer.policy) if trainer.average is None else trainer.average
    value_model = unwrap(trainer.value_model)
    settings = to_plain(section)
    card = write_card(stage.manifest, settings=settings)
    stage.save_model(lambda folder: save_model(folder, policy, tokenizer, card))
    value_card = write_card(stage.manifest, kind="value", settings=settings)
    stage.save_model(lambda folder: save_model(folder, value_model, tokenizer, value_card), "value")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("ppo", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
