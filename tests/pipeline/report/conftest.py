"""Run folders of drawn numbers and their report (``tests.pipeline.report.drawn``)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.report.page import write_report
from tests.pipeline.report.drawn import draw_run, make_config


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return make_config(tmp_path / "run")


@pytest.fixture(scope="session")
def drawn_report(drawn_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the drawn run's report, for tests that only read it."""
    folder, config = tmp_path_factory.mktemp("report"), make_config(drawn_run)
    write_report(config, folder, config.section("report", ReportSection))
    return folder


@pytest.fixture(scope="session")
def drawn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder that tests copy and leave as it is."""
    return draw_run(tmp_path_factory.mktemp("drawn") / "run")


@pytest.fixture
def run_dir(config: RunConfig, drawn_run: Path) -> Path:
    return shutil.copytree(drawn_run, config.run_dir)
