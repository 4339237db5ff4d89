"""Sample completions for people to rank: ``steerline sample CONFIG``."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pipeline.collecting import Sampler, collect_completions
from pipeline.config.run import RunConfig
from pipeline.config.sampling import SampleSection
from pipeline.data import hash_sources, read_prompts
from pipeline.distributed import Workers
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter
from pipeline.labeling import open_store, split_of
from pipeline.models import load_policy
from pipeline.runs import Manifest, model_of, open_stage
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Sample K completions for each prompt from the named stages, into the label store."""
    section = config.section(name, SampleSection)
    if not section.prompts:
        raise ConfigError(f"{name}.prompts must list at least one source, got none. Add one.")
    workers = Workers()
    with open_stage(
        config,
        name,
        parents=section.stages,
        sources=hash_sources(section.prompts, config.seed),
        crew=workers,
        force=force,
    ) as stage:
        if stage.skip:
            return
        prompts = read_prompts(section.prompts, config.seed)
        with open_store(config) as store:
            for prompt in prompts:
                split = split_of(prompt, config.seed, section.validation_fraction)
                workers.on_main(functools.partial(store.add_prompts, [prompt], split=split))
            samplers = [_sampler(config, parent, workers) for parent in section.stages]
            figures = collect_completions(store, prompts, samplers, section, workers, config.seed)
            counts = workers.on_main(store.counts)
        stage.finish({"prompts": len(prompts), "completions": counts["completions"], **figures})


def _sampler(config: RunConfig, stage: str, workers: Workers) -> Sampler:
    path = model_of(config, stage)
    manifest = Manifest.read(config.run_dir / stage)
    assert manifest is not None, f"{stage} has a model and no manifest"
    model = workers.place(load_policy(path))
    return Sampler(stage, manifest.model_hash, model, Formatter(load_tokenizer(path)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("sample", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
