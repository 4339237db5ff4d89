from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import matplotlib as mpl

from pipeline.bootstrap import Interval
from pipeline.report.charts import (
    Estimate,
    Path,
    Point,
    Series,
    draw_curves,
    draw_intervals,
    draw_tradeoff,
)
from pipeline.report.gather import Curve


def series(label: str = "ppo") -> list[Series]:
    return [Series(label, 3, Curve([1, 2, 3], [0.5, 0.75, -1.25]))]


def test_a_chart_is_named_and_described_for_who_cannot_see_it() -> None:
    chart = draw_curves("score", "Score", series(), "ppo/metrics.jsonl")
    root = ET.fromstring(chart.svg)
    assert root.get("role") == "img"
    ids = (root.get("aria-labelledby") or "").split()
    texts = {element.get("id"): element.text for element in root.iter()}
    assert texts[ids[0]] == "Score"
    assert texts[ids[1]] == "ppo goes from 0.500 at step 1 to \N{MINUS SIGN}1.25 at step 3."


def test_a_chart_refers_only_to_itself() -> None:
    chart = draw_curves("score", "Score", series(), "")
    root = ET.fromstring(chart.svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("score-") for name in ids if name)
    referred = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', chart.svg)
    assert referred
    assert all(first or second in ids for first, second in referred)
    assert "http" not in chart.svg
    assert {element.tag for element in root.iter()}.isdisjoint({"script", "style", "metadata"})


def test_colours_are_the_pages_so_that_dark_mode_reaches_them() -> None:
    svg = draw_curves("score", "Score", series(), "").svg
    assert "var(--series-3)" in svg
    assert "#" not in re.sub(r'#score-[^)"]+', "", svg)


def test_a_label_is_text_whatever_it_says() -> None:
    row = Estimate("$\\frac{1}$<script>alert(1)</script>", 1, 0.5, 0.4, 0.6)
    svg = draw_intervals("rates", "a < b", [row], "", zero=False).svg
    assert "<script" not in svg
    assert "$\\frac{1}$&lt;script&gt;" in svg
    assert "a &lt; b" in svg


def test_a_tradeoff_is_described_and_holds_every_point() -> None:
    line = Path("best of n", 0, [0.0, 0.5], [0.25, 0.75], ["1", "3"])
    point = Point("ppo", 3, Interval(0.25, 0.125, 0.5), Interval(0.5, 0.25, 0.625))
    chart = draw_tradeoff("score", "Score", line, [point], "evaluate/best_of.json")
    root = ET.fromstring(chart.svg)
    said = "best of n goes from 0.250 at 0 nats to 0.750 at 0.500 nats; "
    said += "ppo has 0.500 at 0.250 nats."
    assert chart.description == said
    texts = [element.text for element in root.iter("text")]
    assert {"1", "3", "KL, nats"} <= set(texts)
    # The curve, its two dots and the point's two intervals and dot.
    assert chart.svg.count("var(--series-0)") >= 2
    assert chart.svg.count("var(--series-3)") >= 3


def test_the_same_numbers_give_the_same_bytes_and_leave_no_setting_behind() -> None:
    before = mpl.rcParams.copy()
    assert draw_curves("a", "A", series(), "") == draw_curves("a", "A", series(), "")
    assert mpl.rcParams.copy() == before
