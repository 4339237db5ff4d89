from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.report.best_of import lay_out_best_of
from pipeline.report.gather import gather
from pipeline.report.page import write_report
from tests.pipeline.report.compared import draw_best_of
from tests.pipeline.report.placed import read_numbers


@pytest.fixture
def found(run_dir: Path) -> dict[str, Any]:
    found = draw_best_of()
    (run_dir / "evaluate" / "best_of.json").write_text(json.dumps(found), encoding="utf-8")
    return found


@pytest.fixture
def write(config: RunConfig, tmp_path: Path) -> Callable[[], tuple[str, dict[str, Any]]]:
    def written() -> tuple[str, dict[str, Any]]:
        write_report(config, tmp_path, config.section("report", ReportSection))
        numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
        return (tmp_path / "report.html").read_text(encoding="utf-8"), numbers

    return written


def test_a_run_without_it_has_no_such_section(run_dir, write, config) -> None:
    assert lay_out_best_of(gather(config)) is None
    html, numbers = write()
    assert "best-of" not in html
    assert "best_of" not in numbers
    assert run_dir.is_dir()


def test_the_table_has_best_of_n_and_every_policy(found, config) -> None:
    page = lay_out_best_of(gather(config))
    assert page is not None
    labels = [row.label for row in page.rows]
    assert labels == ["best of 1", "best of 2", "best of 4", "best of 8", "ppo", "ppo@no_ptx"]
    assert (page.prompts, page.start) == (40, "sft@ppo_init")
    assert list(page.palette) == ["best of n from sft@ppo_init", "ppo", "ppo@no_ptx"]
    assert [chart.title for chart in page.charts] == [
        "Score from the reward model",
        "Instructions followed, percent",
        "Gold utility",
    ]
    ppo, plain = page.rows[-2:]
    policies = found["policies"]
    ahead = policies["ppo"]["at_equal_kl"]["score"]
    assert ppo.ahead["score"] == (ahead["difference"], ahead["low"], ahead["high"])
    assert not ppo.outside
    assert (plain.outside, dict(plain.ahead)) == (True, {})


def test_every_number_has_its_place(found, write, tmp_path) -> None:
    assert found["completions"] == 9
    write()
    page = read_numbers(tmp_path)
    # Four measures of four n and two policies; the KL of six, two with intervals; two sizes; one
    # policy's differences with their intervals.
    assert sum(section == "best-of" for section, _, _ in page.placed) == 4 * 6 + 10 + 2 + 4 * 3
    assert not any(re.search(r"\d", text) for section, text in page.bare if section == "best-of")


def test_the_page_shows_its_numbers(found, write) -> None:
    html, numbers = write()
    assert numbers["best_of"] == found
    section = html[html.index('<section id="best-of"') :]
    section = section[: section.index("</section>")]
    section = re.sub(r'<span data-json="[^"]*">([^<]*)</span>', r"\1", section)
    assert section.count("outside</span>") == 4
    figures = found["policies"]["ppo"]
    followed, ahead = figures["followed"], figures["at_equal_kl"]["followed"]
    assert f"<td>{100 * followed['estimate']:.1f}" in section
    minus = "\N{MINUS SIGN}"
    assert f"{100 * ahead['low']:+.1f} to".replace("-", minus) in section
    assert section.count("<svg") == 3 + 3  # charts and legend
    assert '<a href="#best-of">' in html


def test_a_world_without_gold_has_scores_alone(found, run_dir, write, config) -> None:
    for row in [*found["best_of"], *found["policies"].values()]:
        del row["followed"], row["utility"]
    (run_dir / "evaluate" / "best_of.json").write_text(json.dumps(found), encoding="utf-8")
    page = lay_out_best_of(gather(config))
    assert page is not None
    assert list(page.measures) == ["score", "win_rate"]
    assert len(page.charts) == 1
    assert '<section id="best-of"' in write()[0]
