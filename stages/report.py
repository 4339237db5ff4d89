"""Write the run's report: ``steerline report CONFIG``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.artifacts import hash_text
from pipeline.config.evaluate import EvaluateSection, ReportSection
from pipeline.config.run import RunConfig, stage_of
from pipeline.errors import RunError
from pipeline.report.page import write_report
from pipeline.runs import Manifest, config_hash, hash_parent, open_stage
from stages.entry import join_crew, run_stage_module

EVALUATE = "evaluate"


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Write the report anew when anything has changed since the last one.

    It needs no ``force`` for that: what it overwrites is made from numbers that stay on disk.

    Raises:
        RunError: if no stage is complete, or the evaluation is part of the line and is not.
    """
    section = config.section(name, ReportSection)
    found = {
        stage: manifest
        for stage in config.stages
        if stage_of(stage) != "report"
        and (manifest := Manifest.read(config.run_dir / stage)) is not None
    }
    parents = [stage for stage, manifest in found.items() if manifest.status == "complete"]
    if EVALUATE in config.line and EVALUATE not in parents:
        parents.append(EVALUATE)
    if not parents:
        raise RunError(
            f"No finished stage in {config.run_dir}, which {name} needs. "
            "Run 'steerline run CONFIG' first."
        )
    crew, sources = join_crew(), _hash_gate(config)
    settled = crew.on_main(
        lambda: len(parents) == len(found) and _is_current(config, name, parents, sources)
    )
    with open_stage(
        config,
        name,
        parents=parents,
        sources=sources,
        crew=crew,
        force=force or not settled,
    ) as stage:
        if not stage.skip:
            stage.finish(crew.on_main(lambda: write_report(config, stage.folder, section)))


def _hash_gate(config: RunConfig) -> dict[str, str]:
    """Hash what the page takes from another stage's section, the tax that is allowed."""
    max_tax = config.section(EVALUATE, EvaluateSection).max_tax
    return {} if max_tax is None else {"evaluate.max_tax": hash_text(str(max_tax))}


def _is_current(
    config: RunConfig, name: str, parents: Sequence[str], sources: Mapping[str, str]
) -> bool:
    last = Manifest.read(config.run_dir / name)
    hashes = {parent: hash_parent(config, name, parent) for parent in parents}
    return (
        last is not None
        and dict(last.parents) == hashes
        and dict(last.sources) == sources
        and last.config_hash == config_hash(config, name)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("report", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
