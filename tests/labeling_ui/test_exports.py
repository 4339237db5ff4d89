from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest

from labeling_ui.dataset_export import dataset_files, folder_hash, zip_files
from labeling_ui.exports import csv_lines, json_lines, preference_rows, safe_cell
from pipeline.config.source import Source
from pipeline.data import hash_sources, read_rankings
from pipeline.ranking_loss import rating_margin
from pipeline.records import Prompt, Ranking
from pipeline.store import LabelStore
from tests.pipeline.judgments import judged, outputs

PROMPT = Prompt.from_text("Which?")
RATED = Ranking(PROMPT, ("a", "b", "c"), (2, 1, 2), (4, 7, 5), "ada")


def read_csv(items: list) -> list[dict[str, str]]:
    text = "".join(csv_lines(items))
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text[1:])))


def test_preferences_are_the_decided_pairs_with_their_margins() -> None:
    rows = list(preference_rows([RATED]))
    prompt = [{"role": "user", "content": "Which?"}]
    assert rows == [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": "b"}],
            "rejected": [{"role": "assistant", "content": rejected}],
            "margin": margin,
            "labeler": "ada",
        }
        for rejected, margin in (("a", 1.0), ("c", 2 / 3))
    ]


@pytest.mark.parametrize("ratings", [(7, 6), (5, 3), (7, 1), (4, 4), (2, 6)])
def test_a_margin_is_the_reward_models_own(ratings: tuple[int, int]) -> None:
    import torch

    (row,) = preference_rows([Ranking(PROMPT, ("a", "b"), (1, 2), ratings)])
    asked = rating_margin(torch.tensor([ratings], dtype=torch.float64))[0, 0, 1]
    assert row["margin"] == pytest.approx(max(0.0, float(asked)), abs=1e-12)


def test_rankings_without_ratings_or_order_have_no_margin_or_no_pair() -> None:
    (row,) = preference_rows([Ranking(PROMPT, ("a", "b"), (2, 1))])
    assert (row["margin"], row["labeler"]) == (0.0, None)
    assert list(preference_rows([Ranking(PROMPT, ("a", "b"), (1, 1))])) == []


def test_preferences_are_read_back_by_the_line(tmp_path: Path) -> None:
    path = tmp_path / "preferences.jsonl"
    path.write_text("".join(json_lines(preference_rows([RATED]))), encoding="utf-8")
    found = read_rankings([Source(str(path))], 0)
    assert [one.completions for one in found] == [("b", "a"), ("b", "c")]


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\n=x", "'\n=x"),
        ("  =x", "'  =x"),
        ("\uff1d1", "'\uff1d1"),
        ("a=1", "a=1"),
        ("", ""),
        (None, ""),
        (-3, "-3"),
        (True, "yes"),
        (False, "no"),
    ],
)
def test_no_cell_is_a_formula(value: object, cell: str) -> None:
    assert safe_cell(value) == cell


def test_a_table_has_a_row_a_judgment_and_output() -> None:
    nasty = '=HYPERLINK("http://evil.example","x"),\n"quoted"'
    items = [
        judged(
            "=ada",
            (2, 1),
            prompt="-1",
            outputs=(
                outputs("p", 1)[0],
                outputs("p", 2)[1].__class__("p/1", nasty, ("sft", "ppo")),
            ),
            ratings=(3, 5),
            presented=(1, 0),
            flags=({"violent": True}, {}),
            prompt_flags={"ambiguous": True},
            comment="@me",
            active_seconds=12.5,
        ),
        judged("bob", (1, 1, 1), interface=None, presented=None),
    ]
    rows = read_csv(items)
    assert len(rows) == 2 + 3
    first, second = rows[:2]
    assert (first["labeler"], first["prompt"], first["comment"]) == ("'=ada", "user: -1", "'@me")
    assert second["text"] == f"'{nasty}"
    assert (first["rank"], first["rating"], first["place"]) == ("2", "3", "2")
    assert (first["violent"], second["violent"], first["prompt_ambiguous"]) == ("yes", "no", "yes")
    assert (second["stages"], second["active_seconds"]) == ("sft, ppo", "12.5")
    assert (rows[2]["place"], rows[2]["rating"], rows[2]["violent"]) == ("", "", "")


@pytest.fixture
def labeled(tmp_path: Path) -> LabelStore:
    """Return a store with rankings of two splits, one by a held-out labeler."""
    store = LabelStore.open(tmp_path / "labels.db")
    other = Prompt.from_text("Why?")
    store.import_rankings([RATED], split="train", source="people")
    held_out = Ranking(PROMPT, ("a", "b", "c"), (1, 2, 3), None, "hugo", "held_out")
    store.import_rankings([held_out], split="train", source="people")
    store.import_rankings(
        [Ranking(other, ("x", "y"), (1, 2), None, "ada")], split="validation", source="people"
    )
    yield store
    store.close()


def test_the_data_set_is_what_datasets_reads(labeled: LabelStore, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = dataset_files(labeled)
    folder = tmp_path / "set"
    with zipfile.ZipFile(io.BytesIO(zip_files(files))) as archive:
        archive.extractall(folder)
    found = {
        name: datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        for name in ("preferences", "rankings")
    }
    assert {
        name: {split: len(rows) for split, rows in one.items()} for name, one in found.items()
    } == {
        "preferences": {"train": 2, "validation": 1},
        "rankings": {"train": 2, "validation": 1},
    }
    row = found["preferences"]["train"][0]
    assert row["prompt"] == [{"role": "user", "content": "Which?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "b"}]
    assert row["margin"] > 0
    groups = {one["labeler"]: one["group"] for one in found["rankings"]["train"]}
    assert groups == {"ada": "train", "hugo": "held_out"}
    assert labeled.snapshot_hash() in (folder / "README.md").read_text(encoding="utf-8")
    (source,) = hash_sources([Source(str(folder))], 0).values()
    assert source == folder_hash(files)


def test_the_same_labels_give_the_same_archive(labeled: LabelStore) -> None:
    assert zip_files(dataset_files(labeled)) == zip_files(dataset_files(labeled))


def test_a_store_without_labels_gives_a_card_alone(tmp_path: Path) -> None:
    with LabelStore.open(tmp_path / "empty.db") as store:
        assert set(dataset_files(store)) == {"README.md"}
