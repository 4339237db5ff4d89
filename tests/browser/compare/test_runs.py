"""The runs' page shows curves, also while a stage trains, lineage, and the report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from labeling_ui.compare_bodies import CURVES
from tests.browser.compare.page import READY, ComparePage
from tests.browser.running import ROOT
from tests.run_folders import add_lines, write_stage

TRAINING = """\
run_dir: {folder}
seed: 3
pretrain:
  tokens: 1000000
  sources: [tiny:facts]
  model: {{hidden_size: 192, num_layers: 4, num_heads: 4, num_kv_heads: 2, intermediate_size: 512}}
  vocab_size: 600
  tokenizer_documents: 200
  context: 128
  batch_size: 8
  micro_batch_size: 8
  log_every: 1
  checkpoint_every: 1000
"""
PATIENCE = 120_000
MANY = CURVES + 2


@pytest.fixture
def many(run_dir: Path) -> Iterator[Path]:
    """Return a run of more stages than one question may name."""
    run = run_dir.parent / "many"
    for at in range(MANY):
        rows = [{"step": 1, "loss": 5.0 + at}, {"step": 9, "loss": 2.0 + at / 100}]
        write_stage(run, f"sft@v{at}", log=rows)
    yield run
    shutil.rmtree(run)


@pytest.fixture
def training(run_dir: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Train a model from scratch in another process, beside the other runs."""
    config = tmp_path / "training.yaml"
    folder = run_dir.parent / "training"
    config.write_text(TRAINING.format(folder=folder), encoding="utf-8")
    command = [sys.executable, "-m", "stages.cli", "pretrain", str(config)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **quiet
    )
    yield process
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def test_curves_of_several_runs_lie_over_one_another(lead: ComparePage):
    lead.open("Runs")
    lead.tick("tiny", "pretrain")
    lead.tick("tiny", "sft")
    lead.tick("second", "sft")
    lead.field("Figure").select_option("loss")
    expect(lead.page.locator(".legend li")).to_have_count(3)
    lines = lead.page.locator(".plot polyline.curve")
    expect(lines).to_have_count(3)
    curves = lead.curves()
    assert curves["tiny/pretrain"] == ["5", "5", "0.6", "0.6", "3"]
    assert curves["second/sft"] == ["2", "9", "4", "4", "5"]
    looks = lines.evaluate_all("all => all.map(one => getComputedStyle(one).strokeDasharray)")
    assert len(set(looks)) == 3, "not by colour alone"
    points = [
        len(str(one).split())
        for one in lines.evaluate_all("all => all.map(one => one.getAttribute('points'))")
    ]
    assert sorted(points) == [1, 2, 5]
    lead.field("Figure").select_option("lr")
    expect(lines).to_have_count(1)
    assert list(lead.curves()) == ["tiny/sft"]


def test_more_curves_than_one_question_names_are_drawn_and_told_apart(
    lead: ComparePage, many: Path
):
    lead.open("Runs")
    for at in range(MANY):
        lead.tick("many", f"sft@v{at}")
    lead.tick("tiny", "pretrain")
    lead.field("Figure").select_option("loss")
    rows = lead.page.locator(".chart tbody tr")
    count = MANY + 2  # the run's last stage was ticked from the start
    expect(rows).to_have_count(count, timeout=READY)
    looks = lead.page.locator(".plot polyline.curve").evaluate_all(
        "all => all.map(one => getComputedStyle(one))"
        ".map(({ stroke, strokeDasharray }) => `${stroke} ${strokeDasharray}`)"
    )
    assert len(set(looks)) == count
    letters = lead.page.locator(".plot .mark").all_text_contents()
    assert letters == lead.page.locator(".legend .mark").all_text_contents()
    assert len(set(letters)) == count
    inside = lead.page.locator(".plot .mark").evaluate_all(
        "all => all.every(one => { const [mark, plot] = [one, one.ownerSVGElement]"
        ".map(each => each.getBoundingClientRect());"
        " return mark.right <= plot.right && mark.top >= plot.top; })"
    )
    assert inside
    add_lines(many / f"sft@v{MANY - 1}", [{"step": 20, "loss": 0.5}])
    newest = rows.filter(has_text=f"sft@v{MANY - 1}").locator("td").nth(1)
    expect(newest).to_have_text("20", timeout=READY)
    expect(lead.page.locator(".notices .notice")).to_have_count(0)


def test_what_is_logged_meanwhile_is_added(lead: ComparePage, run_dir: Path):
    lead.open("Runs")
    lead.tick("second", "sft")
    lead.field("Figure").select_option("loss")
    expect(lead.page.locator(".chart tbody tr").filter(has_text="second/sft")).to_be_visible()
    before = int(lead.curves()["second/sft"][0])
    requests: list[str] = []
    lead.page.on("request", lambda one: requests.append(str(one.post_data)))
    add_lines(run_dir.parent / "second" / "sft", [{"step": 20, "loss": 3.5}])
    row = lead.page.locator(".chart tbody tr").filter(has_text="second/sft")
    expect(row.locator("td").nth(1)).to_have_text("20", timeout=READY)
    assert lead.curves()["second/sft"] == [str(before + 1), "20", "3.5", "3.5", "5"]
    assert all('"cursor":""' not in asked for asked in requests), "only what is new is read"


def test_a_run_that_is_taken_away_is_forgotten(lead: ComparePage, run_dir: Path):
    gone = run_dir.parent / "third"
    write_stage(gone, "sft", log=[{"step": 1, "loss": 1.0}])
    lead.open("Runs")
    lead.tick("second", "sft")
    lead.tick("third", "sft")
    lead.field("Figure").select_option("loss")
    rows = lead.page.locator(".chart tbody tr")
    expect(rows.filter(has_text="third/sft")).to_have_count(1, timeout=READY)
    shutil.rmtree(gone)
    expect(rows.filter(has_text="third/sft")).to_have_count(0, timeout=READY)
    expect(rows.filter(has_text="second/sft")).to_have_count(1)
    expect(lead.page.locator(".notices .notice")).to_have_count(0, timeout=READY)


def test_a_stage_that_trains_shows_its_curve_growing(
    lead: ComparePage, training: subprocess.Popen[bytes]
):
    lead.open("Runs")
    live = lead.page.locator(".live")
    expect(live).to_have_text("Training now: training/pretrain", timeout=PATIENCE)
    logs = lead.page.locator('.stages details[data-run="training"]')
    expect(logs).to_be_attached(timeout=PATIENCE)
    lead.tick("training", "pretrain")
    row = lead.page.locator(".chart tbody tr").filter(has_text="training/pretrain")
    expect(row).to_be_visible(timeout=PATIENCE)
    lead.field("Figure").select_option("loss")
    counts = set()
    end = time.monotonic() + PATIENCE / 1000
    while len(counts) < 3:
        assert time.monotonic() < end, f"the curve had {counts} points"
        assert training.poll() is None, "the training ended too early"
        counts.add(int(lead.curves()["training/pretrain"][0]))
        lead.page.wait_for_timeout(300)
    table = lead.page.locator("table").filter(has_text="Stages of all runs")
    status = table.locator("tr").filter(has_text="training").locator("td").nth(1)
    expect(status).to_have_text("running")
    training.kill()
    training.wait()
    expect(status).to_have_text("cut")
    expect(live).to_have_text("Nothing trains at the moment.")


def test_lineage_goes_from_labels_to_policies(lead: ComparePage):
    lead.open("Runs")
    drawing = lead.page.get_by_role("img", name="Lineage of tiny")
    expect(drawing).to_be_visible(timeout=READY)
    names = drawing.locator("text.name").all_text_contents()
    assert names == ["1 data source", "pretrain", "sft", "label", "Labels", "reward", "ppo"]
    expect(drawing.locator("path.edge")).to_have_count(8)
    lead.page.get_by_text("The same in words").click()
    words = lead.page.locator(".lineage li").all_text_contents()
    assert "Labels (labels a1b2c3d4): snapshot a1b2c3d4; made from label." in words
    assert any(
        line.startswith("ppo: complete") and line.endswith("made from sft, reward.")
        for line in words
    )
    lead.page.locator(".runs select").last.select_option("second")
    expect(lead.page.get_by_role("img", name="Lineage of second")).to_be_visible()


def test_the_report_shows_as_soon_as_it_is_written_and_runs_nothing(
    lead: ComparePage, run_dir: Path
):
    lead.open("Report")
    expect(lead.page.get_by_text("tiny has no report yet")).to_be_visible(timeout=READY)
    folder = run_dir / "report"
    folder.mkdir()
    harm = (
        "<script>top.stolen = 1; document.title = 'x'</script><img src=x onerror='top.stolen = 1'>"
    )
    page = folder / "report.html"
    page.write_text(f"<style>h1 {{color: red}}</style><h1>The tax</h1>{harm}", encoding="utf-8")
    shown = lead.page.frame_locator("iframe.report").get_by_role("heading", name="The tax")
    expect(shown).to_be_visible(timeout=READY)
    assert shown.evaluate("one => getComputedStyle(one).color") == "rgb(255, 0, 0)"
    assert lead.page.evaluate("window.stolen") is None
    page.write_text("<h1>A newer report</h1>", encoding="utf-8")
    newer = lead.page.frame_locator("iframe.report").get_by_role("heading", name="A newer report")
    expect(newer).to_be_visible(timeout=READY)
    with lead.page.expect_popup() as opened:
        lead.page.get_by_role("link", name="Open it alone").click()
    expect(opened.value.get_by_role("heading", name="A newer report")).to_be_visible()


def test_links_of_the_report_lead_to_its_sections(lead: ComparePage, report: Path):
    assert 'href="#lineage"' in (report / "report.html").read_text(encoding="utf-8")
    lead.open("Report")
    shown = lead.page.locator("iframe.report")
    expect(shown).to_be_visible(timeout=READY)
    shown.scroll_into_view_if_needed()
    page = lead.page.frame_locator("iframe.report")
    links = page.get_by_role("navigation", name="Sections")
    for name in ("Lineage", "At a glance"):
        heading = page.get_by_role("heading", name=name, exact=True)
        expect(heading).not_to_be_in_viewport()
        links.get_by_role("link", name=name, exact=True).click()
        expect(heading).to_be_in_viewport()
    # In the frame, a link is followed by key as well.
    links.get_by_role("link", name="Lineage", exact=True).press("Enter")
    expect(page.get_by_role("heading", name="Lineage", exact=True)).to_be_in_viewport()
    assert lead.page.url.endswith("/lab/compare/#report")
