"""Gather the labels: ``steerline label CONFIG``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.agreement import Bootstrap, pairwise_agreement
from pipeline.config.label import LabelSection
from pipeline.config.run import RunConfig
from pipeline.config.sampling import SampleSection
from pipeline.data import hash_sources
from pipeline.errors import RunError
from pipeline.labeling import (
    gold_accuracy,
    import_completions,
    import_rankings,
    make_tasks,
    open_store,
    simulate,
)
from pipeline.runs import Manifest, open_stage
from pipeline.store import LabelStore
from pipeline.store.oversight import Oversight
from pipeline.world import World
from stages.entry import join_crew, run_stage_module


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Import rankings, make tasks of the sampled completions, and let simulated labelers work.

    A finished stage counts anew where people have judged more since, or a lead has decided.

    Raises:
        RunError: if the tasks wait for people and there is no judgment yet.
    """
    section = config.section(name, LabelSection)
    sampled = bool(config.section("sample", SampleSection).prompts)
    crew = join_crew()
    again = not force and crew.on_main(lambda: _has_other_judgments(config, name))
    with open_stage(
        config,
        name,
        parents=["sample"] if sampled else [],
        sources=hash_sources([*section.imports, *section.completions], config.seed),
        crew=crew,
        force=force,
        again=again,
    ) as stage:
        if not stage.skip:
            stage.finish(crew.on_main(lambda: _gather(config, section)))


def _has_other_judgments(config: RunConfig, name: str) -> bool:
    """Tell whether the store holds other judgments than those that the finished stage counted."""
    counted = Manifest.read(config.run_dir / name)
    if counted is None or counted.status != "complete":
        return False
    with open_store(config, create=False) as store:
        return store.snapshot_hash() != counted.metrics.get("snapshot")


def _gather(config: RunConfig, section: LabelSection) -> dict[str, Any]:
    """Fill the store, and return what it holds and how far its labelers agree."""
    with open_store(config) as store:
        imported = import_rankings(store, section.imports, config)
        import_completions(store, section.completions, config)
        if section.simulated:
            simulate(store, World(config.seed), section, config.seed)
        else:
            make_tasks(store, section)
        counts = store.counts()
        if counts["judgments_human"] + counts["judgments_simulated"] == 0:
            raise RunError(_ask_for_judgments(counts["tasks"]))
        snapshot = Oversight(store).record_snapshot()
        return {
            **counts,
            "imported": imported,
            "snapshot": snapshot,
            **_measure(store, section, config.seed),
        }


def _ask_for_judgments(tasks: int) -> str:
    if tasks:
        return (
            f"The label store has {tasks} tasks and no judgment yet. Let people label them "
            "('steerline serve CONFIG'), list label.imports, or set label.simulated."
        )
    return (
        "The label store has nothing to judge and no judgment. Set sample.prompts and run "
        "'steerline sample CONFIG --force', or list label.completions or label.imports."
    )


def _measure(store: LabelStore, section: LabelSection, seed: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"simulated": bool(section.simulated)}
    agreement = pairwise_agreement(
        store.rankings("validation", adjudicated=False), ties=True, bootstrap=Bootstrap(seed=seed)
    )
    if agreement is not None:
        figures["labeler_agreement"] = agreement.value
        figures["labeler_agreement_interval"] = [agreement.low, agreement.high]
        figures["labeler_agreement_comparisons"] = agreement.count
    if section.simulated:
        accuracy, pairs = gold_accuracy(World(seed), store.rankings("validation", "train"))
        figures["gold_accuracy"], figures["gold_pairs"] = accuracy, pairs
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("label", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
