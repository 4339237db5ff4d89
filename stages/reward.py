"""Train the reward model: ``steerline reward CONFIG``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_json
from pipeline.baselines import measure_floors
from pipeline.cards import write_card
from pipeline.config.reward import RewardSection
from pipeline.config.run import RunConfig
from pipeline.config.sft import SftSection
from pipeline.config.source import Source
from pipeline.data import fingerprint_sources, hash_sources, read_demonstrations, read_rankings
from pipeline.data.rows import STORE, draw_subset
from pipeline.distributed import DTYPES, Workers
from pipeline.errors import ConfigError, DataError
from pipeline.formatting import Formatter
from pipeline.labeling import open_store
from pipeline.models import check_adapters, new_reward_model, save_model, set_attention
from pipeline.ranking_accuracy import (
    describe_scores,
    measure_accuracy,
    measure_calibration,
    split_accuracy,
)
from pipeline.ranking_data import (
    check_disjoint,
    check_learnable,
    check_rankings,
    encode_rankings,
)
from pipeline.records import Ranking
from pipeline.reward import RewardTrainer, add_adapters, measure_offset, score_rankings
from pipeline.runs import StageRun, hash_parent, model_of, open_stage
from pipeline.store.exchange import Labels
from pipeline.store.oversight import Oversight
from pipeline.store.values import Group
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Train a reward model on rankings, set its zero, and measure it on held-out rankings.

    A finished model whose labels have changed since is neither skipped nor overwritten: the command
    says so, and trains on the new ones when it is forced.
    """
    section = config.section(name, RewardSection)
    workers = Workers(section.precision)
    demonstrations = _demonstration_sources(config, name, section)
    read = [*section.data, *section.validation, *demonstrations]
    # By the first process alone, so that all train on the same judgments.
    labels = workers.on_main(lambda: _take_labels(config, name, read))
    with open_stage(
        config,
        name,
        parents=[section.init, *(["label"] if labels else [])],
        sources=_hash_inputs(config, read, labels),
        crew=workers,
        force=force,
    ) as stage:
        if stage.skip:
            return
        training = _read(config, section.data, labels, f"{name}.data", group="train")
        held_out = _read(config, section.validation, labels, f"{name}.validation")
        check_learnable(training, section, name)
        check_disjoint(training, held_out, name)
        stage.note_sources(fingerprint_sources(read))
        formatter = Formatter(load_tokenizer(model_of(config, section.init)))
        trainer, figures = _train(config, section, stage, training, formatter)
        if section.lora is not None:
            # Alone, for a PPO that keeps its models on one backbone.
            stage.save_model(trainer.save_adapter, "adapter")
        model = trainer.merged_model()
        offset, count = measure_offset(
            model,
            read_demonstrations(demonstrations, config.seed),
            formatter,
            section,
            workers,
            config.seed,
        )
        model.config.score_offset = offset
        figures |= {"score_offset": offset, "demonstrations": count}
        if held_out:
            raw = score_rankings(model, held_out, formatter, section, workers, f"{name}.validation")
            scores = [[score - offset for score in row] for row in raw]
            figures |= workers.on_main(
                lambda: _measure(stage.folder, training, held_out, scores, config.seed)
            )
        _save(stage, model, formatter, section, figures)
        stage.finish(figures)


def _demonstration_sources(config: RunConfig, name: str, section: RewardSection) -> list[Source]:
    """Return the stage's own sources, or those of the SFT that it starts from."""
    init = config.stages[section.init]
    tuned = init if isinstance(init, SftSection) else config.section("sft", SftSection)
    sources = section.demonstrations or tuned.data
    if not sources:
        raise ConfigError(
            f"{name}.demonstrations must list a source when sft.data is empty, got []. "
            "The reward model's zero is the mean score of demonstrations."
        )
    return list(sources)


def _take_labels(config: RunConfig, name: str, sources: Sequence[Source]) -> Labels | None:
    """Read the label store once, where a source names it: what is trained on is what is named."""
    if not any(source.path.startswith(STORE) for source in sources):
        return None
    # Without this a missing label stage would show as an empty store.
    hash_parent(config, name, "label")
    with open_store(config, create=False) as store:
        return Oversight(store).take_labels()


def _hash_inputs(
    config: RunConfig, sources: Sequence[Source], labels: Labels | None
) -> dict[str, str]:
    hashes = hash_sources(sources, config.seed)
    if labels is not None:
        stored = [source.path for source in sources if source.path.startswith(STORE)]
        hashes |= dict.fromkeys(stored, labels.snapshot.hash)
    return hashes


def _read(
    config: RunConfig,
    sources: Sequence[Source],
    labels: Labels | None,
    where: str,
    group: Group | None = None,
) -> list[Ranking]:
    """Read rankings, source after source; of the label store those of one labelers' group."""
    rankings: list[Ranking] = []
    for source in sources:
        if source.path.startswith(STORE):
            assert labels is not None, "the label store was read, for a source names it"
            rankings += draw_subset(labels.rankings(source.split, group), source, config.seed)
        else:
            found = read_rankings([source], config.seed)
            rankings += [one for one in found if group is None or one.group == group]
    if sources and not rankings:
        listed = ", ".join(f"{source.path} ({source.split})" for source in sources)
        raise DataError(
            f"{where} must hold at least one ranking, got none in {listed}. "
            "Gather judgments, or name another source."
        )
    check_rankings(rankings, where)
    return rankings


def _train(
    config: RunConfig,
    section: RewardSection,
    stage: StageRun,
    training: Sequence[Ranking],
    formatter: Formatter,
) -> tuple[RewardTrainer, dict[str, Any]]:
    start = model_of(config, section.init)
    elements, left_out = encode_rankings(
        training, formatter, section.max_length, ties=section.ties, where=f"{stage.name}.data"
    )
    model = new_reward_model(start, formatter, config.seed, DTYPES[section.precision])
    context = model.config.max_position_embeddings
    if section.max_length > context:
        raise ConfigError(
            f"{stage.name}.max_length must be at most the model's context ({context}), "
            f"got {section.max_length}. Lower it."
        )
    set_attention(model, section.attention, stage.name)
    if section.lora is not None:
        check_adapters(model, section.lora, stage.name)
        model = add_adapters(model, section.lora, config.seed)
    trainer = RewardTrainer(stage, model, elements, formatter.pad_id, section, config.seed)
    trainer.fit()
    return trainer, {
        "prompts": len(elements),
        "rankings": len(training) - left_out,
        "rankings_without_pairs": left_out,
        "steps": trainer.state.global_step,
        "train_loss": trainer.last("loss"),
    }


def _measure(
    folder: Path,
    training: Sequence[Ranking],
    held_out: Sequence[Ranking],
    scores: Sequence[Sequence[float]],
    seed: int,
) -> dict[str, Any]:
    """Write ``accuracy.json`` and return its main figures.

    The headline is on the judgments of the training labelers, as InstructGPT's in-group accuracy;
    those of held-out labelers stand beside it by group.
    """
    own = [i for i, ranking in enumerate(held_out) if ranking.group == "train"]
    own = own or list(range(len(held_out)))
    rankings, theirs = [held_out[i] for i in own], [scores[i] for i in own]
    accuracy = measure_accuracy(rankings, theirs, seed)
    calibration = measure_calibration(rankings, theirs)
    spread = describe_scores(held_out, scores)
    floors = measure_floors(training, rankings, theirs, seed)
    write_json(
        folder / "accuracy.json",
        {
            "reward_model": {
                **accuracy,
                **calibration,
                **spread,
                **split_accuracy(held_out, scores),
            },
            "floors": floors,
        },
    )
    return {
        **{key: accuracy[key] for key in ("accuracy", "low", "high", "by_prompt")},
        **{f"held_out_{key}": accuracy[key] for key in ("n", "prompts", "tied")},
        **calibration,
        **spread,
        **{f"floor_{floor}": figures["accuracy"] for floor, figures in floors.items()},
    }


def _save(
    stage: StageRun,
    model: Any,
    formatter: Formatter,
    section: RewardSection,
    figures: dict[str, Any],
) -> None:
    tokenizer = formatter.tokenizer
    # The plain class reads the score at the last token that is no padding: what pads a batch must
    # be the token that the model's configuration names.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(formatter.pad_id)
    settings = {
        "init": section.init,
        "epochs": section.epochs,
        "batch_size": section.batch_size,
        "learning_rate": section.learning_rate,
        "ties": section.ties,
        "margin": section.margin,
    }
    card = write_card(
        stage.manifest,
        kind="reward",
        settings=settings,
        metrics=figures,
        score_offset=figures["score_offset"],
    )
    stage.save_model(lambda folder: save_model(folder, model, tokenizer, card))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("reward", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
