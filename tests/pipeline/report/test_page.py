from __future__ import annotations

import csv
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.errors import SteerlineError
from pipeline.records import read_jsonl, write_jsonl
from pipeline.report.page import write_report

HOSTILE = {
    "script": "<script>fetch('https://evil.example/')</script>",
    "attribute": "<img src=x onerror=alert(1)>\"' onmouseover='alert(1)",
    "close": "</dd></dl></article></body></html><iframe src=//evil.example></iframe>",
    "style": "</style><style>@import url(//evil.example/a.css)</style>",
    "svg": "<svg onload=alert(1)><use href='https://evil.example/#x'/></svg>",
    "markdown": "[click](javascript:alert(1)) ![](https://evil.example/p.png)",
    "template": "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "override": "harmless \u202e)txt.exe\u202c and \u2066isolated\u2069",
    "long": "a" * 100_000,
    "surrogate": "half \ud83d pair, nul \x00, bell \x07",
}
ALLOWED = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "nav"),
    *(
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "li",
        "a",
        "b",
        "br",
        "span",
        "code",
        "div",
    ),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd"),
    *("figure", "figcaption", "svg", "g", "defs", "clippath", "path", "rect", "use", "text"),
    *("tspan", "desc", "details", "summary"),
}


class Page(HTMLParser):
    """Collect what a browser would see: elements with attributes, and text by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attrs for name, attrs in self.elements if name == tag)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture
def render(run_dir: Path, config: RunConfig, tmp_path: Path):
    assert run_dir.is_dir()

    def rendered(name: str = "out", config: RunConfig = config) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write_report(config, folder, config.section("report", ReportSection))
        return folder

    return rendered


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def numbers_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@functools.cache
def outcomes(run_dir: Path) -> dict[tuple[str, str, int], np.ndarray]:
    """Return whether each document was answered correctly, by stage, task and shots."""
    found: dict[tuple[str, str, int], list[int]] = {}
    for _, row in read_jsonl(run_dir / "evaluate" / "documents.jsonl"):
        found.setdefault((row["stage"], row["task"], row["shots"]), []).append(row["correct"])
    return {key: np.array(values) for key, values in found.items()}


def test_the_page_can_ask_for_nothing(drawn_report: Path) -> None:
    page = page_of(drawn_report)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    (policy,) = [
        meta["content"]
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") or name == "src" for name in attrs), (tag, attrs)
        link = attrs.get("href")
        assert link is None or link.startswith("#") or link == "data:,", link
    html = (drawn_report / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)|javascript:", html)


def test_model_text_is_shown_and_does_nothing(run_dir: Path, config: RunConfig, render) -> None:
    path = run_dir / "evaluate" / "completions" / "ppo.jsonl"
    rows = [row for _, row in read_jsonl(path)][: len(HOSTILE)]
    for row, text in zip(rows, HOSTILE.values(), strict=True):
        row["completion"] = row["prompt"] = text
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for other in (run_dir / "evaluate" / "completions").glob("*.jsonl"):
        if other != path:
            other.unlink()
    folder = render(config=config.with_stage("report", samples=50, title=HOSTILE["script"]))
    page = page_of(folder)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert sum(tag == "article" for tag, _ in page.elements) == len(HOSTILE)
    for _, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        assert "evil" not in "".join(value or "" for value in attrs.values())
    for name in ("script", "attribute", "close", "style", "svg", "markdown", "template"):
        # Once as the prompt, once as the completion.
        assert page.text.count(HOSTILE[name]) >= 2, name
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x07]", html)
    assert "⟨U+202E⟩" in html
    assert "a" * 2_001 not in html
    assert "98\u202f000 more characters" in html


def test_the_tax_is_what_the_documents_say(drawn_run: Path, drawn_report: Path) -> None:
    folder = drawn_report
    rows = numbers_of(folder)["tax"]
    single = [row for row in rows if row["task"] != "mean over tasks"]
    assert len(single) == 5 * 6 * 3
    for row in single:
        own = outcomes(drawn_run)[row["stage"], row["task"], row["shots"]]
        base = outcomes(drawn_run)["pretrain", row["task"], row["shots"]]
        assert row["score"] == pytest.approx(own.mean())
        assert row["stderr"] == pytest.approx(own.std(ddof=1) / np.sqrt(len(own)))
        if row["stage"] == "pretrain":
            assert row["difference"] is None
        else:
            assert row["difference"] == pytest.approx(own.mean() - base.mean())
            assert row["low"] <= row["difference"] <= row["high"]
            assert row["documents"] == len(own)
    (mean,) = [row for row in rows if (row["stage"], row["shots"]) == ("ppo", "all")]
    parts = [row["difference"] for row in single if row["stage"] == "ppo"]
    assert mean["difference"] == pytest.approx(np.mean(parts))
    cell = next(row for row in single if row["stage"] == "ppo@no_ptx")
    shown = f"{100 * cell['score']:.1f} ± {100 * cell['stderr']:.1f}"
    assert shown in page_of(folder).text


def test_holms_family_is_all_task_comparisons_together(drawn_report: Path) -> None:
    rows = [row for row in numbers_of(drawn_report)["tax"] if row["p"] is not None]
    tasks = sorted((row for row in rows if row["task"] != "mean over tasks"), key=lambda r: r["p"])
    assert tasks[0]["p_holm"] == pytest.approx(min(1, len(tasks) * tasks[0]["p"]))
    adjusted = [row["p_holm"] for row in tasks]
    assert adjusted == sorted(adjusted)
    assert all(row["p_holm"] >= row["p"] for row in tasks)


def test_tax_csv_holds_the_numbers_of_report_json(drawn_report: Path) -> None:
    folder = drawn_report
    with (folder / "tax.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    rows = numbers_of(folder)["tax"]
    assert len(table) == len(rows)
    for written, row in zip(table, rows, strict=True):
        assert written == {key: "" if value is None else str(value) for key, value in row.items()}


def test_ptx_recovers_the_share_of_a_significant_fall(drawn_run: Path, drawn_report: Path) -> None:
    rows = numbers_of(drawn_report)["recovered_by_ptx"]
    (row,) = [row for row in rows if row["shots"] is None and row["task"] == "mean over tasks"]
    scores = json.loads((drawn_run / "evaluate" / "results.json").read_text())
    start, ppo, plain = (
        np.mean([cell["acc"] for task in scores[stage].values() for cell in task.values()])
        for stage in ("sft@ppo_init", "ppo", "ppo@no_ptx")
    )
    assert row["share"] == pytest.approx((ppo - plain) / (start - plain))
    for row in rows:
        fell = row["fall"]["difference"] < 0
        clear = (row["fall"]["p_holm"] or row["fall"]["p"]) < 0.05
        assert (row["share"] is not None) == (fell and clear)


def test_bits_per_byte_change_is_that_of_all_texts_together(
    drawn_run: Path, drawn_report: Path
) -> None:
    def bits(stage: str) -> float:
        rows = [row for _, row in read_jsonl(drawn_run / "evaluate" / "texts" / f"{stage}.jsonl")]
        return sum(row["nll"] for row in rows) / sum(row["bytes"] for row in rows) / np.log(2)

    rows = {row["stage"]: row for row in numbers_of(drawn_report)["language"]}
    assert rows["pretrain"]["against_base"] is None
    for stage in ("sft", "ppo", "ppo@no_ptx"):
        change = rows[stage]["against_base"]["difference"]
        assert change == pytest.approx(bits(stage) - bits("pretrain"))


def test_instruction_following_is_paired_by_prompt(run_dir: Path, render) -> None:
    def judged(stage: str, key: str) -> dict[str, float]:
        path = run_dir / "evaluate" / "completions" / f"{stage}.jsonl"
        return {row["prompt_id"]: row[key] for _, row in read_jsonl(path)}

    # Another order in the file changes nothing.
    path = run_dir / "evaluate" / "completions" / "ppo.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    before = numbers_of(render())["instruction_following"]
    write_jsonl(path, rows[::-1])
    after = numbers_of(render())["instruction_following"]
    assert before == after
    (row,) = [row for row in after if row["stage"] == "ppo"]
    own, sft = judged("ppo", "followed"), judged("sft", "followed")
    expected = np.mean([own[name] - sft[name] for name in own])
    assert row["against_sft"]["difference"] == pytest.approx(expected)
    ours, theirs = judged("ppo", "utility"), judged("sft", "utility")
    wins = np.mean([(np.sign(ours[name] - theirs[name]) + 1) / 2 for name in ours])
    assert row["wins"]["difference"] + 0.5 == pytest.approx(wins)
    assert row["win_rate"] == pytest.approx(wins)


def test_the_headline_has_the_runs_outcome(drawn_run: Path, drawn_report: Path) -> None:
    headline = numbers_of(drawn_report)["headline"]
    summary = json.loads((drawn_run / "evaluate" / "summary.json").read_text())
    assert headline["sft"]["instruction_following"] == summary["sft"]["instruction_following"]
    assert headline["base"]["perplexity"] == summary["pretrain"]["perplexity"]
    assert headline["ppo_win_rate"] == summary["ppo"]["win_rate_vs_sft"]
    assert (headline["reward_accuracy"], headline["labeler_agreement"]) == (0.717, 0.729)


def test_the_reward_table_has_the_intervals_that_the_stages_wrote(drawn_report: Path) -> None:
    rows = {row["judge"]: row for row in numbers_of(drawn_report)["reward"]}
    ends = {judge: (row["low"], row["high"]) for judge, row in rows.items()}
    assert ends["reward model"] == (0.69, 0.744)
    assert ends["bag of words (floor)"] == (0.58, 0.64)
    assert ends["simulated labelers among themselves"] == (0.702, 0.755)
    assert rows["bag of words (floor)"]["ahead"] == {"estimate": 0.106, "low": 0.071, "high": 0.14}
    assert rows["length (floor)"]["ahead"] is None
    verdict = " ".join(numbers_of(drawn_report)["verdict"])
    assert "+10.6 points against bag of words (95 % interval +7.1 to +14.0)." in verdict


def test_the_base_is_named_as_it_was_loaded(run_dir: Path, render) -> None:
    assert "base trained from scratch" in (render() / "report.html").read_text()
    path = run_dir / "pretrain" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["metrics"]["origin"] = {"base": "x.gguf", "format": "gguf (Q4_1, dequantized)"}
    path.write_text(json.dumps(manifest))
    assert "base x.gguf, gguf (Q4_1, dequantized)" in (render("x") / "report.html").read_text()


def test_every_table_and_figure_says_where_its_numbers_come_from(drawn_report: Path) -> None:
    html = (drawn_report / "report.html").read_text(encoding="utf-8")
    for part in ("caption", "figcaption"):
        found = re.findall(rf"<{part}>(.*?)</{part}>", html, flags=re.DOTALL)
        assert found
        assert all('class="source">from <code>' in text for text in found)
    page = Page(html)
    assert sum(tag == "table" for tag, _ in page.elements) == html.count("<caption>")
    assert all(attrs.get("scope") for attrs in page.all("th"))
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") for svg in page.all("svg"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in page.all("a")]
    assert {str(link).removeprefix("#") for link in links} <= set(ids)


def log_rewards(run_dir: Path, stage: str, **rewards: float) -> None:
    """Add rewards to a PPO stage's log: each rises by its figure a step."""
    path = run_dir / stage / "metrics.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    for row in rows:
        for name, rise in rewards.items():
            row |= {f"reward/{name}": rise * row["step"], f"reward/{name}_std": 0.5}
    write_jsonl(path, rows)


def figures_of(folder: Path) -> list[str]:
    html = (folder / "report.html").read_text(encoding="utf-8")
    section = html.partition('<section id="ppo"')[2].partition("</section>")[0]
    return [
        f"{title} / {description}"
        for title, description in re.findall(
            r"<figcaption>(.*?)<span.*?<desc[^>]*>(.*?)</desc>", section, flags=re.DOTALL
        )
    ]


def test_each_reward_stands_beside_the_score(run_dir: Path, render) -> None:
    log_rewards(run_dir, "ppo", reward=0.01, brevity=-0.5)
    log_rewards(run_dir, "ppo@no_ptx", reward=0.02)
    folder = render()
    score, reward, brevity, kl = figures_of(folder)[:4]
    assert score.startswith("Score")
    assert reward == (
        "Reward reward, before its weight / ppo goes from 0.010 at step 1 to 0.600 at step 60; "
        "ppo@no_ptx goes from 0.020 at step 1 to 1.20 at step 60."
    )
    assert brevity == (
        "Reward brevity, before its weight / ppo goes from \N{MINUS SIGN}0.500 at step 1 to "
        "\N{MINUS SIGN}30 at step 60."
    )
    assert kl.startswith("KL")
    curves = numbers_of(folder)["curves"]["ppo"]
    assert curves["reward/brevity"]["values"][-1] == -30
    page = page_of(folder)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_reward_that_stands_alone_is_the_score_and_is_not_drawn_twice(
    run_dir: Path, render
) -> None:
    for stage in ("ppo", "ppo@no_ptx"):
        log_rewards(run_dir, stage, reward=0.01)
    assert not [figure for figure in figures_of(render()) if figure.startswith("Reward ")]


def test_simulated_labels_are_marked_where_they_appear(run_dir: Path, render) -> None:
    sections = (render("simulated") / "report.html").read_text().split("<section ")
    for part in ("stages", "reward", "ppo"):
        (text,) = [section for section in sections if section.startswith(f'id="{part}"')]
        assert "simulated" in text, part
    path = run_dir / "label" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["metrics"]["simulated"] = False
    path.write_text(json.dumps(manifest))
    page = page_of(render("human"))
    assert not any("mark" in (attrs.get("class") or "") for attrs in page.all("span"))
    assert "simulated labelers" not in page.text


def test_the_same_folder_gives_the_same_bytes(render) -> None:
    one, two = render("one"), render("two")
    for name in ("report.html", "report.json", "tax.csv", "calibration.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize(
    "missing",
    [
        ["ppo", "ppo@no_ptx"],
        ["evaluate"],
        ["reward", "label", "sample"],
        ["evaluate/completions"],
        ["evaluate/documents.jsonl"],
        ["evaluate/results.json"],
        ["evaluate/summary.json", "evaluate/texts"],
        ["."],
    ],
)
def test_what_is_missing_is_said_and_no_obstacle(run_dir: Path, render, missing: list[str]) -> None:
    for name in missing:
        path = run_dir / name
        path.rename(run_dir.parent / f"gone-{path.name}")
    text = page_of(render()).text
    for name in missing:
        if "/" not in name and name != ".":
            assert re.search(rf"{re.escape(name)}\s*not run", text), name
    assert "None" not in text
    assert "nan" not in text


def test_a_failed_and_a_cut_stage_are_shown_as_such(run_dir: Path, render) -> None:
    for stage, fields in (
        ("ppo", {"status": "failed", "error": "RunError: <b>loss</b> is not finite"}),
        ("ppo@no_ptx", {"status": "running"}),
    ):
        path = run_dir / stage / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with (run_dir / "ppo@no_ptx" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 61, "objective/sc')
    text = page_of(render()).text
    assert re.search(r"ppo\s*failedRunError: <b>loss</b> is not finite", text)
    assert re.search(r"ppo@no_ptx\s*cut", text)
    # Its manifest has changed since the evaluation took it in.
    assert "changed since" in text


def test_a_damaged_file_is_named(run_dir: Path, render) -> None:
    (run_dir / "evaluate" / "results.json").write_text('{"sft": {')
    with pytest.raises(SteerlineError, match=r"results\.json is not JSON"):
        render()


def test_drawing_needs_neither_torch_nor_pyplot() -> None:
    code = """
import sys
import pipeline.report.page
from pipeline.report.charts import Series, draw_curves
from pipeline.report.gather import Curve

draw_curves("a", "A", [Series("x", 1, Curve([1, 2], [0.5, 1.0]))], "")
print(sorted({"torch", "matplotlib.pyplot"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
