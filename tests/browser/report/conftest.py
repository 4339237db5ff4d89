"""Reports of drawn numbers, opened from their files as a reader opens them: no app, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from pipeline.config.evaluate import ReportSection
from pipeline.records import read_jsonl, write_jsonl
from pipeline.report.page import write_report
from tests.browser.conftest import opening
from tests.browser.hostile import HOSTILE
from tests.pipeline.report.compared import draw_best_of, draw_win_rates
from tests.pipeline.report.drawn import (
    STAGES,
    compare_models,
    draw_generation,
    draw_run,
    draw_translation,
    make_config,
    retokenize,
    write_json,
)

SAMPLES = 14
"""Prompts that are shown: among them is each hostile answer."""
FAILURES = ("error", "warning")


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Leave the app alone: a report needs none."""


def _draw(folder: Path) -> Path:
    """Write a run in which everything was measured, and PPO answers with texts that mean harm."""
    draw_run(folder)
    draw_generation(folder)
    draw_translation(folder)
    evaluation = folder / "evaluate"
    write_json(evaluation / "win_rates.json", draw_win_rates())
    write_json(evaluation / "best_of.json", draw_best_of())
    path = evaluation / "completions" / "ppo.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    for i, row in enumerate(rows):
        row["completion"] = HOSTILE[i % len(HOSTILE)]
    write_jsonl(path, rows)
    return folder


def _write(run: Path, folder: Path) -> Path:
    config = make_config(run).with_stage("report", samples=SAMPLES)
    folder.mkdir()
    write_report(config, folder, config.section("report", ReportSection))
    return folder / "report.html"


@pytest.fixture(scope="session")
def run_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a whole run."""
    folder = tmp_path_factory.mktemp("run-report")
    return _write(_draw(folder / "run"), folder / "report")


@pytest.fixture(scope="session")
def models_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of models that no run made, one of them with tokens of its own."""
    folder = tmp_path_factory.mktemp("models-report")
    run = _draw(folder / "run")
    compare_models(run, [*STAGES])
    retokenize(run, "ppo")
    return _write(run, folder / "report")


@pytest.fixture(params=["run", "models"])
def report(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_report")
    return found


@pytest.fixture
def new_context(browser: Browser, report: Path) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that opens a browser of its own; a page asks for itself and nothing else.

    Nor may it fail, or say anything on the console.
    """
    asked: list[str] = []
    failures: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in FAILURES:
            failures.append(message.text)

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", note)

    with opening(browser, lambda request: asked.append(request.url), watch) as open_context:
        yield open_context
    assert set(asked) == {report.as_uri()}
    assert failures == []
