"""What a lead downloads is what the store holds."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
from playwright.sync_api import expect

from pipeline.store.oversight import Oversight
from tests.browser.lab.page import LabPage
from tests.browser.running import Server


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_export_is_a_file_of_what_the_store_holds(lead: LabPage, server: Server):
    oversight = Oversight(server.store)
    answer = next(one for one in oversight.answers())
    lead_id = next(one.id for one in server.accounts.list() if one.role == "lead")
    oversight.review(answer.id, lead_id, "accepted", 7)
    lead.open("Data")
    expect(lead.panel.get_by_role("link")).to_have_count(5)
    snapshot = server.store.snapshot_hash()
    expect(lead.field("What a reward model would be trained on now")).to_have_value(
        __import__("re").compile(snapshot)
    )

    rows = read_lines(lead.download("All judgments (JSONL)"))
    assert rows == json.loads(json.dumps(server.store.export_rows()))

    preferences = read_lines(lead.download("Preferences for TRL (JSONL)"))
    rankings = server.store.rankings("train", "train")
    pairs = {
        (one.labeler, one.prompt.messages[-1]["content"], one.completions[i], one.completions[j])
        for one in rankings
        for i, j in [*combinations(range(len(one.ranks)), 2)]
        for i, j in ((i, j), (j, i))
        if one.ranks[i] < one.ranks[j]
    }
    assert len(pairs) > 40
    assert {
        (
            row["labeler"],
            row["prompt"][-1]["content"],
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
        )
        for row in preferences
    } == pairs
    assert len(preferences) == len(pairs)

    demonstrations = read_lines(lead.download("Accepted demonstrations (JSONL)"))
    accepted = [one for one in oversight.answers() if one.trainable]
    assert [row["messages"][-1]["content"] for row in demonstrations] == [
        one.text for one in accepted
    ]

    table = lead.download("Spreadsheet (CSV)").read_text(encoding="utf-8-sig")
    cells = list(csv.DictReader(io.StringIO(table)))
    judged = [one for one in oversight.judged() if not one.excluded]
    assert len(cells) == sum(len(one.outputs) for one in judged)
    assert {(row["labeler"], row["output"], row["rank"]) for row in cells} == {
        (one.labeler, output.id, str(rank))
        for one in judged
        for output, rank in zip(one.outputs, one.ranks, strict=True)
    }

    with zipfile.ZipFile(lead.download("Data set for Hugging Face datasets (ZIP)")) as archive:
        assert snapshot in archive.read("README.md").decode()
        shown = pq.read_table(io.BytesIO(archive.read("preferences/train.parquet")))
    assert shown.num_rows == len(preferences)
