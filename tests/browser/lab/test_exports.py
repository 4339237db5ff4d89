"""What a lead downloads is what the store holds."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from itertools import permutations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from pipeline.store.oversight import Oversight
from tests.browser.lab.page import LabPage
from tests.browser.running import Server


@pytest.fixture
def data(lead: LabPage) -> LabPage:
    """Return the page where the exports are."""
    lead.open("Data")
    return lead


@pytest.fixture
def oversight(server: Server) -> Oversight:
    return Oversight(server.store)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_judgments_and_a_spreadsheet(data: LabPage, server: Server, oversight: Oversight):
    expect(data.panel.get_by_role("link")).to_have_count(5)
    rows = read_lines(data.download("All judgments (JSONL)"))
    assert rows == json.loads(json.dumps(server.store.export_rows()))
    text = data.download("Spreadsheet (CSV)").read_text(encoding="utf-8-sig")
    cells = list(csv.DictReader(io.StringIO(text)))
    judged = [one for one in oversight.judged() if not one.excluded]
    assert len(cells) == sum(len(one.outputs) for one in judged)
    assert {(row["task"], row["labeler"], row["output"], row["rank"]) for row in cells} == {
        (one.task, one.labeler, output.id, str(rank))
        for one in judged
        for output, rank in zip(one.outputs, one.ranks, strict=True)
    }


def test_preferences_and_a_data_set(data: LabPage, server: Server):
    rows = read_lines(data.download("Preferences for TRL (JSONL)"))
    decided = {
        (one.labeler, one.prompt.messages[-1]["content"], one.completions[i], one.completions[j])
        for one in server.store.rankings("train", "train")
        for i, j in permutations(range(len(one.ranks)), 2)
        if one.ranks[i] < one.ranks[j]
    }
    assert len(decided) > 40
    assert decided == {
        (
            row["labeler"],
            row["prompt"][-1]["content"],
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
        )
        for row in rows
    }
    assert len(rows) == len(decided)
    with zipfile.ZipFile(data.download("Data set for Hugging Face datasets (ZIP)")) as archive:
        assert server.store.snapshot_hash() in archive.read("README.md").decode()
        table = pq.read_table(io.BytesIO(archive.read("preferences/train.parquet")))
    assert table.num_rows == len(rows)


def test_accepted_demonstrations(data: LabPage, server: Server, oversight: Oversight):
    waiting = next(one for one in oversight.answers() if one.review is None)
    lead = next(one for one in server.accounts.list() if one.role == "lead")
    oversight.review(waiting.id, lead.id, "accepted", 7)
    rows = read_lines(data.download("Accepted demonstrations (JSONL)"))
    texts = [row["messages"][-1]["content"] for row in rows]
    assert waiting.text in texts
    assert sorted(texts) == sorted(one.text for one in oversight.answers() if one.trainable)
