"""Sample K completions a prompt and put them in the label store, with their provenance."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.config.sampling import DecodingSection, SampleSection
from pipeline.cursors import permutation
from pipeline.distributed import Workers
from pipeline.formatting import Formatter
from pipeline.records import Prompt
from pipeline.sampling import SampledText, sample_completions
from pipeline.store import LabelStore, Provenance, SampledCompletion, reason_to_refuse


class Sampler(NamedTuple):
    """A stage's model, ready to answer.

    Attributes:
        stage: its name.
        checkpoint: hash of its weights.
        model: a causal language model.
        formatter: of its tokenizer.
    """

    stage: str
    checkpoint: str
    model: Any
    formatter: Formatter


class Wanted(NamedTuple):
    """One completion to sample: which prompt, by whom, and which of the prompt's K it is."""

    prompt: Prompt
    sampler: int
    sample_index: int


def plan_completions(
    prompts: Sequence[Prompt], section: SampleSection, seed: int, samplers: int
) -> Iterator[Wanted]:
    """Yield each prompt's K completions, K drawn by prompt, spread over the samplers in turn."""
    span = section.k_max - section.k_min + 1
    for prompt in prompts:
        k = section.k_min + int(permutation(span, seed, "k", prompt.id)[0])
        for index in range(k):
            yield Wanted(prompt, index % samplers, index)


def collect_completions(
    store: LabelStore,
    prompts: Sequence[Prompt],
    samplers: Sequence[Sampler],
    section: SampleSection,
    workers: Workers,
    seed: int,
) -> dict[str, int]:
    """Sample what the store does not hold yet, and return how it went.

    Work goes in portions that are stored as they are done, so a cut run loses one portion. A
    completion with nothing in it to rank is counted and left out.

    Returns:
        How many were sampled, how many distinct ones the store holds, and counts by finish reason.
    """
    wanted = list(plan_completions(prompts, section, seed, len(samplers)))
    portion = section.batch_size * workers.world_size * 4
    for start in range(0, len(wanted), portion):
        part = wanted[start : start + portion]
        held = workers.on_main(functools.partial(_held, store, part, section, seed))
        missing = [want for want in part if _key(want, samplers) not in held]
        share = missing[workers.rank :: workers.world_size]
        done = workers.gather_objects(
            list(zip(share, _sample(share, samplers, section, workers, seed), strict=True))
        )
        workers.on_main(functools.partial(_store, store, done, samplers, section, seed))
    return workers.on_main(lambda: _count(store, wanted, samplers, section, seed))


def _sample(
    share: Sequence[Wanted],
    samplers: Sequence[Sampler],
    section: SampleSection,
    workers: Workers,
    seed: int,
) -> list[SampledText]:
    sampled: dict[int, SampledText] = {}
    decoding = decoding_of(section)
    for number, sampler in enumerate(samplers):
        rows = [row for row, want in enumerate(share) if want.sampler == number]
        with workers.autocast():
            texts = sample_completions(
                sampler.model,
                sampler.formatter,
                [share[row].prompt for row in rows],
                decoding,
                seed=seed,
                sample_index=[share[row].sample_index for row in rows],
                batch_size=section.batch_size,
            )
        sampled.update(zip(rows, texts, strict=True))
    return [sampled[row] for row in range(len(share))]


def decoding_of(section: SampleSection) -> DecodingSection:
    """Return the decoding parameters among a sample section's fields."""
    names = [field.name for field in dataclasses.fields(DecodingSection)]
    return DecodingSection(**{name: getattr(section, name) for name in names})


def _key(want: Wanted, samplers: Sequence[Sampler]) -> tuple[str, str, int]:
    return want.prompt.id, samplers[want.sampler].checkpoint, want.sample_index


def _parameters(section: SampleSection) -> Mapping[str, Any]:
    return dataclasses.asdict(decoding_of(section))


def _held(
    store: LabelStore, part: Sequence[Wanted], section: SampleSection, seed: int
) -> dict[tuple[str, str, int], Provenance]:
    """Return what the store already has of some prompts, by prompt, checkpoint and index."""
    parameters = _parameters(section)
    return {
        (prompt_id, source.checkpoint or "", source.sample_index or 0): source
        for prompt_id in {want.prompt.id for want in part}
        for completion in store.completions(prompt_id)
        for source in completion.sources
        if source.seed == seed and dict(source.sampling) == parameters
    }


def _count(
    store: LabelStore,
    wanted: Sequence[Wanted],
    samplers: Sequence[Sampler],
    section: SampleSection,
    seed: int,
) -> dict[str, int]:
    held = _held(store, wanted, section, seed)
    kept = [held[_key(want, samplers)] for want in wanted if _key(want, samplers) in held]
    reasons = Counter(f"finished_by_{source.finish_reason}" for source in kept)
    return {"sampled": len(wanted), "refused": len(wanted) - len(kept), **reasons}


def _store(
    store: LabelStore,
    done: Sequence[tuple[Wanted, SampledText]],
    samplers: Sequence[Sampler],
    section: SampleSection,
    seed: int,
) -> None:
    parameters = _parameters(section)
    by_prompt: dict[str, list[SampledCompletion]] = {}
    for want, completion in done:
        if reason_to_refuse(completion.text) is not None:
            continue
        sampler = samplers[want.sampler]
        provenance = Provenance(
            stage=sampler.stage,
            checkpoint=sampler.checkpoint,
            model=sampler.stage,
            sampling=parameters,
            seed=seed,
            sample_index=want.sample_index,
            finish_reason=completion.finish_reason,
        )
        by_prompt.setdefault(want.prompt.id, []).append(
            SampledCompletion(completion.text, provenance)
        )
    for prompt_id, completions in by_prompt.items():
        store.add_completions(prompt_id, completions)
