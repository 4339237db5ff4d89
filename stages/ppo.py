"""Optimise the policy: ``steerline ppo CONFIG``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.artifacts import verify_folder
from pipeline.cards import write_card
from pipeline.config.ppo import PpoSection
from pipeline.config.pretrain import PretrainSection
from pipeline.config.reward import RewardSection
from pipeline.config.run import RunConfig
from pipeline.config.schema import to_plain
from pipeline.config.source import Source
from pipeline.data import hash_sources, read_prompts
from pipeline.distributed import DTYPES, Workers
from pipeline.engines import require_engine
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter
from pipeline.hydra import Branch
from pipeline.hydra_models import (
    Hydra,
    make_hydra,
    merged_policy,
    merged_value_model,
    resume_hydra,
)
from pipeline.models import (
    load_policy,
    load_value_model,
    new_value_model,
    save_model,
    set_attention,
    zero_value_model,
)
from pipeline.ppo import Models, PPOTrainer
from pipeline.ppo_loop import PPOLoop
from pipeline.pretraining import draw_corpus
from pipeline.reward_sources import OpenRewards, hash_rewards, open_rewards
from pipeline.rewards import Reward
from pipeline.runs import Manifest, StageRun, hash_parent, model_of, open_stage
from pipeline.tokenizer import load_tokenizer
from pipeline.vllm_engine import VllmEngine
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Train a policy by PPO, with pretraining gradients where ``ptx_coef`` is positive."""
    section = config.section(name, PpoSection)
    texts = _ptx_sources(config, name, section)
    workers = Workers(section.precision)
    require_engine(section.engine, workers, name)
    asked = [*section.prompts, *section.eval_prompts]
    sources = hash_sources([*asked, *texts], config.seed)
    sources |= workers.on_main(lambda: hash_rewards(section, name))
    parents = [section.init, *section.reward_stages]
    with open_stage(
        config, name, parents=parents, sources=sources, crew=workers, force=force
    ) as stage:
        if stage.skip:
            return
        formatter = Formatter(load_tokenizer(model_of(config, section.init)))
        prompts = read_prompts(section.prompts, config.seed)
        hydra = _make_hydra(config, section, stage, workers)
        rewards = open_rewards(
            section,
            workers,
            formatter,
            {parent: model_of(config, parent) for parent in section.reward_stages},
            prompts,
            name,
            loaded=hydra[1] if hydra else None,
        )
        stage.note_sources(rewards.revisions)
        if hydra:
            models = _join(hydra[0], rewards.reward)
        else:
            models = _load(config, section, stage, workers, rewards)
        engine = None
        if section.engine.kind == "vllm":
            start = model_of(config, section.init)
            engine = VllmEngine(section, workers, formatter, models.policy, start, prompts, name)
        trainer = PPOTrainer(
            section,
            workers,
            formatter,
            models,
            prompts=prompts,
            ptx_sequences=_draw_ptx(config, section, models, formatter, texts) if texts else None,
            seed=config.seed,
            engine=engine,
        )
        loop = PPOLoop(trainer, stage, read_prompts(section.eval_prompts, config.seed))
        figures = loop.run()
        if hydra:
            _save_hydra(config, stage, section, trainer)
        else:
            _save(stage, section, trainer)
        stage.finish(figures)


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


def _load(
    config: RunConfig,
    section: PpoSection,
    stage: StageRun,
    workers: Workers,
    rewards: OpenRewards,
) -> Models:
    """Load the models: the trained ones from the checkpoint that is resumed, if there is."""
    dtype = DTYPES[section.precision]
    start = model_of(config, section.init)
    resumed = stage.resume_from
    policy = load_policy(resumed / "policy" if resumed else start, dtype)
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
        ref_policy=workers.freeze(load_policy(start, dtype)),
        reward=rewards.reward,
        value_model=value,
        average=average,
    )
    for model in (policy, value, models.ref_policy):
        set_attention(model, section.attention, stage.name)
    if section.activation_checkpointing:
        for model in (policy, value):
            model.activation_checkpointing_enable({"use_reentrant": False})
    return models


def _make_hydra(
    config: RunConfig, section: PpoSection, stage: StageRun, workers: Workers
) -> tuple[Hydra, dict[str, Branch]] | None:
    """Make the models on one backbone, and name the reward stage that shares it."""
    if section.hydra is None:
        return None
    start = model_of(config, section.init)
    backbone: Any = workers.freeze(load_policy(start, DTYPES[section.precision]))
    set_attention(backbone, section.attention, stage.name)
    if section.activation_checkpointing:
        backbone.activation_checkpointing_enable({"use_reentrant": False})
    shared = _find_shared_reward(config, section, stage.name)
    hydra = make_hydra(
        backbone,
        section.hydra,
        start=start,
        reward=shared and (config.run_dir / shared[0] / "adapter", shared[1]),
        averaged=section.ema_decay is not None,
        seed=config.seed,
    )
    if stage.resume_from:
        resume_hydra(hydra, stage.resume_from)
    loaded = {shared[0]: hydra.reward_model} if shared and hydra.reward_model else {}
    return hydra, loaded


def _find_shared_reward(
    config: RunConfig, section: PpoSection, name: str
) -> tuple[str, float] | None:
    """Return a reward stage that trained adapters on PPO's very start, and its score offset.

    Raises:
        RunError: if its adapters are gone or damaged.
    """
    start = hash_parent(config, name, section.init)
    for source in section.reward_sources:
        if source.stage is None or source.retokenize:
            continue
        made = config.section(source.stage, RewardSection)
        manifest = Manifest.read(config.run_dir / source.stage)
        if made.lora is None or manifest is None or manifest.parents.get(section.init) != start:
            continue
        advice = f"Run 'steerline {source.stage} CONFIG --force' to make it again."
        verify_folder(config.run_dir / source.stage / "adapter", advice)
        return source.stage, float(manifest.metrics["score_offset"])
    return None


def _join(hydra: Hydra, reward: Reward) -> Models:
    return Models(
        policy=hydra.policy,
        ref_policy=hydra.ref_policy,
        reward=reward,
        value_model=hydra.value_model,
        average=hydra.average,
    )


def _draw_ptx(
    config: RunConfig,
    section: PpoSection,
    models: Models,
    formatter: Formatter,
    texts: Sequence[Source],
) -> Tensor:
    """Draw the pretraining sequences, [sequences, tokens], for the whole training."""
    steps = section.iterations * section.num_ppo_epochs * section.minibatches
    corpus = draw_corpus(
        texts,
        formatter.tokenizer,
        rows=min(section.ptx_pool, steps * section.ptx_minibatch_size),
        context=section.ptx_length or models.policy.config.max_position_embeddings,
        seed=config.seed,
    )
    return torch.from_numpy(corpus.rows).long()


def _save(stage: StageRun, section: PpoSection, trainer: PPOTrainer) -> None:
    """Save the policy (its moving average where there is one) and the value model."""
    tokenizer, policy = trainer.formatter.tokenizer, trainer.candidate
    value_model = trainer.workers.unwrap(trainer.value_model)
    settings = to_plain(section)
    card = write_card(stage.manifest, settings=settings)
    stage.save_model(lambda folder: save_model(folder, policy, tokenizer, card))
    value_card = write_card(stage.manifest, kind="value", settings=settings)
    stage.save_model(lambda folder: save_model(folder, value_model, tokenizer, value_card), "value")


def _save_hydra(
    config: RunConfig, stage: StageRun, section: PpoSection, trainer: PPOTrainer
) -> None:
    """Save the adapters alone, and policy and value model with theirs merged."""
    start, tokenizer = model_of(config, section.init), trainer.formatter.tokenizer
    dtype, settings = DTYPES[section.precision], to_plain(section)
    value: Branch = trainer.value_model or trainer.policy
    stage.save_model(trainer.candidate.save_pretrained, "adapter")
    stage.save_model(value.save_pretrained, "value_adapter")

    def write_policy(folder: Path) -> None:
        policy = merged_policy(start, stage.folder / "adapter", dtype)
        save_model(folder, policy, tokenizer, write_card(stage.manifest, settings=settings))

    def write_value(folder: Path) -> None:
        model = merged_value_model(start, stage.folder / "value_adapter", value, dtype)
        card = write_card(stage.manifest, kind="value", settings=settings)
        save_model(folder, model, tokenizer, card)

    stage.save_model(write_policy)
    stage.save_model(write_value, "value")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("ppo", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
