"""Write the report: one page that needs nothing but itself, and its numbers beside it.

The page makes no request (a content security policy forbids any), runs no script, and shows model
text as text: Jinja2 escapes everything that is not an SVG drawn here. ``report.json`` holds the
numbers that the page shows, and each carries its place in it (``pipeline.report.ledger``).
``tax.csv``, ``calibration.csv``, ``measures.csv`` and ``win_rates.csv`` hold tables for a
spreadsheet. The same run folder gives the same bytes: nothing in them is the time of writing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.artifacts import as_json, write_text
from pipeline.config.evaluate import EvaluateSection, ReportSection
from pipeline.config.run import RunConfig
from pipeline.report import words
from pipeline.report.best_of import lay_out_best_of
from pipeline.report.calibrating import COLUMNS as CALIBRATION_COLUMNS
from pipeline.report.calibrating import calibration_rows, flatten
from pipeline.report.charts import dash_of
from pipeline.report.gate import judge_tax
from pipeline.report.gather import BASE, EVALUATE, Cell, RunRecord, gather
from pipeline.report.health import PHASES, finding_table, held_out_table, time_table
from pipeline.report.ledger import Ledger, step_to
from pipeline.report.measures import COLUMNS as MEASURE_COLUMNS
from pipeline.report.measures import Measure, flatten_measure, measure_table
from pipeline.report.outcomes import (
    SFT,
    following_table,
    glance_table,
    language_table,
    reward_table,
    text_recovery,
)
from pipeline.report.sections import (
    LOSSES,
    TRAINED,
    calibration_charts,
    colours,
    gain_charts,
    loss_charts,
    pick_samples,
    ppo_charts,
    stage_rows,
    tax_charts,
    token_charts,
)
from pipeline.report.tax import MEAN, NO_PTX, PTX, TaxCell, ptx_start, recoveries, tax_table
from pipeline.report.values import number
from pipeline.report.verdict import Findings, write_verdict
from pipeline.report.wins import COLUMNS as WINS_COLUMNS
from pipeline.report.wins import JUDGES, lay_out_wins, wins_numbers, wins_rows

JUDGED = ("followed", "utility", "score")
"""What the judges make of a completion, as its row names it."""
TAX_COLUMNS = (
    *("stage", "task", "shots", "score", "stderr", "n", "cut_contexts", "ece", "brier"),
    *("difference", "low", "high", "p", "p_holm", "documents"),
)


def write_report(config: RunConfig, folder: Path, section: ReportSection) -> dict[str, Any]:
    """Write ``report.html``, ``report.json`` and the tables as CSV, and return the headline.

    Args:
        config: the run's configuration.
        folder: where the files go.
        section: title, notes and number of samples.

    Raises:
        SteerlineError: if a file of the run is there but cannot be read.
    """
    run, seed = gather(config), config.seed
    evaluation = config.section(EVALUATE, EvaluateSection)
    tax, following = tax_table(run, seed), following_table(run, seed)
    recovered, glance = recoveries(run, config, seed), glance_table(run, tax)
    language, on_text = language_table(run, seed), text_recovery(run, config, seed)
    calibration = calibration_rows(run, seed, evaluation.calibration_bins)
    measures, gate = measure_table(run, seed), judge_tax(run, tax, evaluation.max_tax)
    reward = reward_table(run)
    health = _health(run)
    found = Findings(tax, following, recovered, calibration, language, gate)
    verdict, samples = write_verdict(run, found), pick_samples(run, section.samples)
    stages, palette = stage_rows(run), colours(run)
    headline = make_headline(run, glance)
    wins = lay_out_wins(run)
    numbers = {
        "title": section.title,
        "simulated_labels": run.simulated,
        "headline": headline,
        "verdict": verdict,
        "stages": [
            {
                "stage": row.record.name,
                "status": row.status,
                "seconds": row.record.manifest.seconds if row.record.manifest else None,
                "processes": row.record.manifest.world_size if row.record.manifest else None,
                "metrics": dict(row.record.manifest.metrics) if row.record.manifest else {},
            }
            for row in stages
        ],
        **({"models": run.models} if run.models else {}),
        "glance": glance,
        "tax": [_flat(row) for row in tax.values()],
        "gate": gate,
        "recovered_by_ptx": [
            {**asdict(row), "share": row.share} for row in [*recovered, on_text] if row
        ],
        "calibration": calibration,
        "measures": measures,
        "language": language,
        "instruction_following": following,
        **({"preferences": list(run.preferences)} if run.preferences else {}),
        "reward": reward,
        "ppo_health": health,
        **({"best_of": run.best_of} if run.best_of else {}),
        **({"win_rates": wins_numbers(run, wins)} if wins else {}),
        "curves": {stage.name: dict(stage.curves) for stage in run.stages if stage.kind in TRAINED},
        "samples": [
            {
                "prompt_id": sample.prompt_id,
                "answers": {
                    stage: {key: number(row.get(key)) for key in JUDGED}
                    for stage, row in sample.answers
                },
            }
            for sample in samples
        ],
    }
    ledger = Ledger(numbers)
    page = _environment(ledger).get_template("template.html.jinja")
    html = page.render(
        title=section.title,
        notes=section.notes,
        facts=_facts(config, run),
        verdict=[words.unbroken(sentence) for sentence in verdict],
        run=run,
        glance=glance,
        gain=gain_charts(run, tax, following),
        stages=stages,
        tax_at={cell: f"/tax/{place}" for place, cell in enumerate(tax)},
        tax_charts=tax_charts(run, tax),
        scored=[name for name in run.evaluated if any(cell.stage == name for cell in tax)],
        families=_families(tax),
        cut=any(row.cut for row in tax.values()),
        base=run.base,
        mean=MEAN,
        start=ptx_start(run, config),
        recovered=recovered,
        language=language,
        other_tokens=not all(row["same_tokens"] for row in language),
        on_text=f"/recovered_by_ptx/{len(recovered)}" if on_text else None,
        calibrated=_lay_out_calibration(calibration),
        calibration_charts=calibration_charts(run, calibration),
        token_charts=token_charts(run, language),
        measured=_lay_out_measures(run, measures),
        following=following,
        scores=any(row.score is not None for row in following),
        # Where stages are compared by all judges, people stand in that table.
        preferences=() if wins and wins.has_people else run.preferences,
        reward=reward,
        reward_source="reward/accuracy.json, label/manifest.json",
        ppo=ppo_charts(run),
        health=health,
        phases=PHASES,
        ppo_stages=[stage.name for stage in run.of_kind("ppo")],
        best_of=lay_out_best_of(run),
        wins=wins,
        names={judge: name for judge, (name, _) in JUDGES.items()},
        losses=loss_charts(run),
        loss_palette=dict(LOSSES.values()),
        samples=samples,
        palette=palette,
        packages=_packages(run),
    )
    _write(folder / "report.html", html)
    _write(folder / "report.json", json.dumps(ledger.numbers, indent=1, ensure_ascii=False) + "\n")
    _write(folder / "tax.csv", _csv(TAX_COLUMNS, map(_flat, tax.values())))
    _write(folder / "calibration.csv", _csv(CALIBRATION_COLUMNS, map(flatten, calibration)))
    _write_some(folder / "measures.csv", MEASURE_COLUMNS, [*map(flatten_measure, measures)])
    _write_some(folder / "win_rates.csv", WINS_COLUMNS, [*wins_rows(wins)] if wins else [])
    return headline


def _lay_out_calibration(
    rows: Sequence[Mapping[str, Any]],
) -> dict[int, dict[str, dict[str, str]]]:
    """Return where each row stands in ``report.json``, by shots, task and stage."""
    places: dict[int, dict[str, dict[str, str]]] = {}
    for place, row in enumerate(rows):
        by_task = places.setdefault(row["shots"], {})
        by_task.setdefault(row["task"], {})[row["stage"]] = f"/calibration/{place}"
    # Tasks in order of their names, the mean last.
    return {
        shots: dict(sorted(by_task.items(), key=lambda item: (item[0] == MEAN, item[0])))
        for shots, by_task in sorted(places.items())
    }


def _lay_out_measures(
    run: RunRecord, rows: Sequence[Measure]
) -> tuple[list[str], dict[tuple[str, int, str], dict[str, str]]]:
    """Return the stages that have any, and where each row stands, by task, shots and measure."""
    places: dict[tuple[str, int, str], dict[str, str]] = {}
    for place, row in enumerate(rows):
        key = (row.task, row.shots, row.measure)
        places.setdefault(key, {})[row.stage] = f"/measures/{place}"
    with_any = {row.stage for row in rows}
    return [stage for stage in run.evaluated if stage in with_any], places


def make_headline(run: RunRecord, glance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the run's outcome in a few numbers, rates as fractions; what is missing is None."""
    rows = {row["stage"]: row for row in glance}
    names = ("instruction_following", "fewshot", "perplexity")
    if run.models:
        return {stage: {name: row[name] for name in names} for stage, row in rows.items()}
    headline: dict[str, Any] = {}
    for key, stage in (("base", BASE), (SFT, SFT), (PTX, PTX), (NO_PTX, NO_PTX)):
        row = rows.get(stage)
        headline[key] = {name: row[name] for name in names} if row else None
    label, reward = run.stage("label"), run.stage("reward")
    return {
        **headline,
        "reward_accuracy": reward.metric("accuracy"),
        "gold_accuracy": label.metric("gold_accuracy"),
        "labeler_agreement": label.metric("labeler_agreement"),
        "ppo_win_rate": run.figure(PTX, "win_rate_vs_sft"),
    }


def _health(run: RunRecord) -> dict[str, Sequence[Any]]:
    return {
        "held_out": held_out_table(run),
        "findings": finding_table(run),
        "times": time_table(run),
    }


def _environment(ledger: Ledger) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "dash": dash_of,
        "prompt": words.prompt_text,
        "shots": words.count_shots,
        "step_to": step_to,
        "unbroken": words.unbroken,
        "visible": words.visible,
    }
    environment.globals |= {"at": ledger.at, "show": ledger.show}
    return environment


def _facts(config: RunConfig, run: RunRecord) -> list[str]:
    made = [stage.manifest for stage in run.stages if stage.manifest]
    facts = [f"run {config.top.run_dir}", f"seed {config.seed}"]
    if run.models:
        return [*facts, f"base {run.base}"]
    facts.append(f"base {_base(config, run)}")
    seconds = sum(manifest.seconds for manifest in made)
    if seconds:
        facts.append(f"{words.duration(seconds)} of work")
    finished = max((manifest.finished for manifest in made), default="")
    if finished:
        facts.append(f"as of {finished[:16].replace('T', ' ')} UTC")
    return facts


def _base(config: RunConfig, run: RunRecord) -> str:
    """Say what the base is: as it was loaded, else as it is configured."""
    manifest = run.stage(BASE).manifest
    origin = manifest.metrics.get("origin", {}) if manifest else {}
    said = ", ".join(origin[key] for key in ("base", "format") if key in origin)
    return said or config.top.base or "trained from scratch"


def _packages(run: RunRecord) -> str:
    made = [stage.manifest for stage in run.stages if stage.manifest]
    versions = sorted({item for manifest in made for item in manifest.packages.items()})
    commits = sorted({manifest.git_commit[:12] for manifest in made if manifest.git_commit})
    texts = [f"{name} {version}" for name, version in versions]
    return " · ".join([*texts, *(f"commit {commit}" for commit in commits)])


def _families(tax: Mapping[Cell, TaxCell]) -> dict[str, int]:
    compared = [row.cell.task == MEAN for row in tax.values() if row.change]
    return {"means": sum(compared), "tasks": len(compared) - sum(compared)}


def _flat(row: TaxCell) -> dict[str, Any]:
    change = asdict(row.change) if row.change else {}
    values = {**row.cell._asdict(), **asdict(row), **change}
    values["n"], values["cut_contexts"], values["documents"] = row.n, row.cut, change.get("n")
    if row.cell.shots is None:
        values["shots"] = "all"
    return {key: values.get(key) for key in TAX_COLUMNS}


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(as_json(row) for row in rows)
    return text.getvalue()


def _write_some(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table that not every report has; without rows, none of an earlier report stays."""
    if rows:
        _write(path, _csv(columns, rows))
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    # A name in a data file may hold half of a surrogate pair, which UTF-8 cannot write.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
