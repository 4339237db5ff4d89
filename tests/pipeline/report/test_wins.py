from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.bootstrap import Interval
from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.records import write_jsonl
from pipeline.report.gather import gather
from pipeline.report.page import write_report
from pipeline.report.wins import lay_out_wins
from pipeline.runs import Manifest
from tests.pipeline.report.compared import LINE, draw_win_rates
from tests.pipeline.report.placed import NUMBER, read_numbers

MINUS = "\N{MINUS SIGN}"


@pytest.fixture
def run_dir(config: RunConfig) -> Path:
    """Make a run folder of what win rates are shown beside, and nothing else."""
    folder = config.run_dir
    (folder / "evaluate").mkdir(parents=True)
    (folder / "ppo").mkdir()
    Manifest("label", "complete", 0, "", metrics={"simulated": True}).write(_made(folder / "label"))
    rows = [{"step": step, "objective/kl": 0.5 * step} for step in (1, 2, 3)]
    write_jsonl(folder / "ppo" / "metrics.jsonl", rows)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def found(run_dir: Path) -> dict[str, Any]:
    found = draw_win_rates()
    (run_dir / "evaluate" / "win_rates.json").write_text(json.dumps(found), encoding="utf-8")
    return found


@pytest.fixture
def write(config: RunConfig, tmp_path: Path) -> Callable[[], tuple[str, dict[str, Any]]]:
    def written() -> tuple[str, dict[str, Any]]:
        write_report(config, tmp_path, config.section("report", ReportSection))
        numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        section = html.partition('<section id="wins"')[2].partition("</section>")[0]
        # Without the marks of where the numbers stand, which have a test of their own.
        return re.sub(r'<span data-json="[^"]*">([^<]*)</span>', r"\1", section), numbers

    return written


def test_a_run_without_them_has_no_such_section(run_dir, write, config, tmp_path) -> None:
    assert run_dir.is_dir()
    assert lay_out_wins(gather(config)) is None
    section, numbers = write()
    assert (section, "win_rates" in numbers) == ("", False)
    assert not (tmp_path / "win_rates.csv").exists()


def test_every_judges_pairs_strengths_and_habits_are_shown(found, write, config) -> None:
    wins = lay_out_wins(gather(config))
    assert wins is not None
    assert [(row.judge, row.stage) for row in wins.pairs] == [
        (name, stage) for name in ("gold", "reward", "llm") for stage in LINE[1:]
    ] + [("people", "ppo")]
    section, numbers = write()
    assert numbers["win_rates"]["judges"] == found["judges"]
    pair = found["judges"]["llm"]["pairs"][1]
    rate = pair["win_rate"]
    shown = f'{100 * rate["estimate"]:.1f}<span class="sub">{100 * rate["low"]:.1f} to '
    assert f'<td class="text">language model</td><td>{shown}' in section
    controlled = pair["length_controlled"]["win_rate"]
    assert f"<td>{100 * controlled['estimate']:.1f}<span" in section
    strength = found["judges"]["gold"]["strengths"][2]["strength"]
    assert f"<td>{strength['estimate']:+.2f}<span".replace("-", MINUS) in section
    habits = found["judges"]["llm"]
    assert "judge-1" in section
    assert f"<td>{100 * habits['first_preferred']['estimate']:.1f}<span" in section
    assert f"<td>{100 * habits['disagreed']:.1f}</td><td>2</td>" in section


def test_every_number_has_its_place_in_the_json(found, write, tmp_path) -> None:
    assert found["judges"]
    _, numbers = write()
    page = read_numbers(tmp_path)
    places = [place for section, place, _ in page.placed if section == "wins"]
    assert len(places) == len(set(places)) > 120
    (way,) = numbers["win_rates"]["trajectories"]
    said = " ".join(way["sentences"])
    bare = [
        text.replace("\u00a0", " ")
        for section, text in page.bare
        if section == "wins" and NUMBER.search(text)
    ]
    assert [text for text in bare if text not in (said, "judge-1")] == []


def test_what_is_not_finite_is_said_and_not_shown_as_a_number(found, write) -> None:
    assert found["judges"]["people"]["strengths"][1]["separated"]
    section, _ = write()
    # People preferred one of two stages every time: no finite strength, no length apart from it.
    assert section.count("unbounded</span>") == 1
    row = section[section.rindex('<td class="text">people</td>') :]
    assert "n/a" in row[: row.index("</tr>")]


def test_the_way_from_the_start_shows_what_the_reward_model_overstates(found, write) -> None:
    section, numbers = write()
    (way,) = numbers["win_rates"]["trajectories"]
    assert [point["name"] for point in way["points"]] == ["sft@ppo_init", "ppo.20", "ppo"]
    last = found["trajectories"][0]["points"][2]
    gap = last["overstated"]["gold"]
    assert way["points"][2]["overstated"]["gold"] == gap
    sentence = (
        f"ppo wins {100 * last['win_rates']['reward']['estimate']:.1f}\u00a0% by the reward model "
        f"and {100 * last['win_rates']['gold']['estimate']:.1f}\u00a0% by gold utility: "
        f"{100 * gap['estimate']:+.1f} points"
    )
    assert sentence in section
    assert "the reward model overstates it." in section
    (description,) = re.findall(r"<desc[^>]*>(.*?)</desc>", section)
    assert "by gold utility 50.0 % at 0 nats" in description
    assert "mean score" in description
    assert section.count("<svg") == 3 + 1  # legend and chart
    assert "win rate, percent" in section


def test_the_spreadsheet_has_the_pages_pairs(found, write, tmp_path) -> None:
    write()
    with (tmp_path / "win_rates.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    pairs = [(name, row) for name, own in found["judges"].items() for row in own["pairs"]]
    assert len(table) == len(pairs) == 7
    for written, (name, row) in zip(table, pairs, strict=True):
        assert (written["judge"], written["stage"]) == (name, row["stage"])
        assert float(written["low"]) == row["win_rate"]["low"]
        controlled = row["length_controlled"]
        # What the data do not tell is as empty here as on the page.
        high = "" if controlled["separated"] else str(controlled["win_rate"]["high"])
        assert written["length_controlled_high"] == high
        assert int(written["comparisons"]) == row["comparisons"]


def test_evaluations_in_training_are_drawn_beside_it(found, run_dir, write) -> None:
    assert found["trajectories"]
    rows = [
        {"step": step, "eval/kl": kl, "eval/win_rate": rate}
        for step, kl, rate in ((1, 0.5, 0.6), (2, 4.0, 0.8), (3, 2.0, 0.7))
    ]
    write_jsonl(run_dir / "ppo" / "metrics.jsonl", rows)
    section, numbers = write()
    assert "by reward in training 60.0 % at 0.500 nats, 70.0 % at 2 nats, 80.0 %" in section
    assert "</svg>reward in training</li>" in section
    assert numbers["curves"]["ppo"]["eval/win_rate"]["values"] == [0.6, 0.8, 0.7]


def drop_kl(run_dir: Path, found: dict[str, Any]) -> None:
    for point in found["trajectories"][0]["points"][1:]:
        point["kl"] = None
    (run_dir / "evaluate" / "win_rates.json").write_text(json.dumps(found), encoding="utf-8")


def test_a_kl_that_was_not_measured_is_taken_from_elsewhere_and_said_to_be(
    found, run_dir, config, write
) -> None:
    drop_kl(run_dir, found)
    record = gather(config)
    wins = lay_out_wins(record)
    assert wins is not None
    _, middle, last = wins.ways[0].points
    curve = record.stage("ppo").curves["objective/kl"]
    assert (middle.kl, last.kl) == (None, Interval(*[curve.values[-1]] * 3))
    assert last.kl_source == "ppo/metrics.jsonl, objective/kl"
    assert "ppo/metrics.jsonl, objective/kl</code>" in write()[0]
    best_of = {"policies": {"ppo": {"kl": {"estimate": 3.0, "low": 2.5, "high": 3.5}}}}
    (run_dir / "evaluate" / "best_of.json").write_text(json.dumps(best_of), encoding="utf-8")
    wins = lay_out_wins(gather(config))
    assert wins is not None
    assert wins.ways[0].points[-1].kl == Interval(3.0, 2.5, 3.5)


def test_a_way_of_unknown_length_is_told_and_not_drawn(found, run_dir, config, write) -> None:
    drop_kl(run_dir, found)
    (run_dir / "ppo" / "metrics.jsonl").unlink()
    wins = lay_out_wins(gather(config))
    assert wins is not None
    assert (list(wins.charts), dict(wins.palette)) == ([], {})
    section, _ = write()
    assert "From sft@ppo_init to ppo" in section
    assert "<svg" not in section


def test_people_stand_in_one_table(found, run_dir, write, tmp_path) -> None:
    assert "people" in found["judges"]
    row = {"stage": "ppo", "against": "sft", "judge": "people", "win_rate": 0.5, "low": 0.4}
    people = {"preferences": [{**row, "high": 0.6, "prompts": 4, "comparisons": 8}]}
    (run_dir / "evaluate" / "people.json").write_text(json.dumps(people), encoding="utf-8")
    section, numbers = write()
    assert "Labelers compared what the stage sample drew." in section
    assert "Answers that labelers preferred" not in (tmp_path / "report.html").read_text()
    assert numbers["preferences"] == people["preferences"]
