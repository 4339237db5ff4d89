"""Self-Instruct's 252 user-oriented tasks, with real models' outputs, labeled through the app."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from scipy.stats import kendalltau
from sqlalchemy import select
from starlette.testclient import TestClient
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from labeling_ui.app import create_app
from labeling_ui.settings import AppSettings
from pipeline.config.run import load_config
from pipeline.labeling import open_store
from pipeline.runs import Manifest
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from pipeline.store.leasing import LeaseRules
from pipeline.store.oversight import Oversight
from pipeline.store.questions import OUTPUT_FLAGS
from pipeline.store.schema import DemonstrationRow
from stages.cli import main
from tests.labeling_ui.browsers import GOOD, HERE
from tests.labeling_ui.lab_handlers import LabPage
from tests.labeling_ui.scripted import Person, add_people, label_all, think

PEOPLE = {
    **dict.fromkeys(("ada", "bob", "cyd", "dan", "eve"), "train"),
    "hugo": "held_out",
}
OVERLAP = {"train": 1, "validation": 3 + 1}
CONFIG = """
run_dir: {folder}/run
seed: 5
base: a-model
label:
  completions: [{data}]
  overlap: 1
  validation_overlap: 3
  held_out_overlap: 1
  validation_fraction: 0.08
"""


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """Return the published rows by their id, read by nothing of ours."""
    folder = os.environ.get("STEERLINE_DATA")
    if not folder:
        pytest.skip("STEERLINE_DATA is not set: the real data lies outside the repository")
    lines = source_of(folder).read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def source_of(folder: str) -> Path:
    return Path(folder) / "self_instruct" / "user_prompts_with_completions.jsonl"


def merge(completions: dict[str, str]) -> dict[str, set[str]]:
    """Return the models behind each distinct text."""
    models: dict[str, set[str]] = defaultdict(set)
    for model, text in completions.items():
        models[text].add(model)
    return models


def exported(store: LabelStore) -> list[dict[str, Any]]:
    """Return the exported rows as they are read from a file."""
    rows: list[dict[str, Any]] = json.loads(json.dumps(store.export_rows()))
    return rows


@dataclass(frozen=True)
class Labeled:
    """A run that people have labeled whole.

    Attributes:
        config: its file.
        store: open.
        app: over the store.
        people: who did it.
        asked: what the label stage said before there was a judgment.
        waiting: tasks by kind, purpose and split, with how many were wanted, before.
    """

    config: Path
    store: LabelStore
    app: FastAPI
    people: list[Person]
    asked: str
    waiting: dict[tuple[str, str, str], tuple[int, int]]


@pytest.fixture(scope="module")
def labeled(
    rows: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Labeled]:
    """Import the rows by the label stage, and let people do all of its tasks over HTTP."""
    assert len(rows) == 252
    folder = tmp_path_factory.mktemp("self_instruct")
    path = folder / "run.yaml"
    data = source_of(os.environ["STEERLINE_DATA"])
    path.write_text(CONFIG.format(folder=folder, data=data), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        patch.setattr("pipeline.store.passwords.COST", 2**5)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert main(["label", str(path)]) == 2
        config = load_config(path, [])
        with open_store(config, create=False) as store:
            waiting = {
                (one.kind, one.purpose, one.split): (one.tasks, one.wanted)
                for one in Oversight(store).queue()
            }
            add_people(Accounts(store), PEOPLE)
            rules = LeaseRules(timedelta(minutes=30))
            app = create_app(store, AppSettings(), rules=rules, run_dir=config.run_dir)
            people = label_all(app, [*PEOPLE], skipping=["ada", "bob"])
            yield Labeled(path, store, app, people, said.getvalue(), waiting)


def test_the_stage_makes_tasks_and_asks_for_people(labeled: Labeled) -> None:
    assert labeled.asked.startswith("steerline: The label store has 252 tasks and no judgment yet.")
    assert labeled.asked.count("\n") == 1
    counted: Counter[str] = Counter()
    for (kind, purpose, split), (tasks, wanted) in labeled.waiting.items():
        counted[kind] += tasks
        assert purpose == "work"
        assert wanted == tasks * (OVERLAP[split] if kind == "ranking" else 1)
    assert counted == {"ranking": 234, "demonstration": 18}
    assert labeled.waiting["ranking", "work", "validation"][0] >= 10


def test_identical_outputs_are_one_with_every_models_name(
    labeled: Labeled, rows: dict[str, dict[str, Any]]
) -> None:
    merged = 0
    for prompt in labeled.store.prompts():
        published = merge(rows[prompt.meta["id"]]["completions"])
        stored = labeled.store.completions(prompt.id)
        assert {one.text: {source.model for source in one.sources} for one in stored} == published
        assert [len(one.sources) for one in stored] == [len(published[one.text]) for one in stored]
        merged += any(len(models) > 1 for models in published.values())
    assert merged == 80


def test_every_task_is_done_by_as_many_as_were_asked_for(labeled: Labeled) -> None:
    queue = Oversight(labeled.store).queue()
    assert [(one.open, one.held, one.done) for one in queue] == [
        (0, 0, one.wanted) for one in queue
    ]
    counts = labeled.store.counts()
    assert counts["places_done"] == counts["places_wanted"]
    judged = Oversight(labeled.store).judged()
    by_task = defaultdict(list)
    for one in judged:
        by_task[one.task].append(one)
    assert len(by_task) == 234
    for work in by_task.values():
        groups = Counter(one.group for one in work)
        validation = work[0].split == "validation"
        assert groups == ({"train": 3, "held_out": 1} if validation else {"train": 1})
        assert len({one.labeler for one in work}) == len(work)
    skips = Oversight(labeled.store).skips()
    assert skips == {"other": 2}


def test_every_judgment_is_stored_exactly_once(labeled: Labeled) -> None:
    rows = exported(labeled.store)
    sent = {key: one for person in labeled.people for key, one in person.acknowledged.items()}
    with labeled.store.reading() as session:
        written = list(session.scalars(select(DemonstrationRow.idempotency_key)))
    stored = [row["key"] for row in rows] + written
    assert sorted(stored) == sorted(sent)
    for row in rows:
        receipt = sent[row["key"]]
        assert (row["revision"], row["created"]) == (receipt["revision"], receipt["created"])
    # Everybody had second thoughts once, and the first ones are kept.
    assert sum(one["revision"] == 2 for one in sent.values()) == len(PEOPLE)


def test_what_is_stored_is_what_was_sent(labeled: Labeled) -> None:
    stored = {
        (row["labeler"], row["prompt"][0]["content"]): row
        for row in exported(labeled.store)
        if row["revision"] == 1
    }
    compared = 0
    for person in labeled.people:
        for task in person.tasks:
            row = stored.get((person.name, task["prompt"][0]["content"]))
            if row is None:
                continue  # skipped, or a text was written
            work = think(person.name, task).submission(0)
            texts = [one["text"] for one in row["completions"]]
            ids = {one["text"]: one["id"] for one in task["completions"]}
            assert [work["ranks"][ids[text]] for text in texts] == row["ranks"]
            assert [work["ratings"][ids[text]] for text in texts] == row["ratings"]
            assert [work["flags"].get(ids[text], {}) for text in texts] == row["flags"]
            assert row["comment"] == work["comment"]
            assert row.get("prompt_flags", {}) == work["prompt_flags"]
            assert row.get("none_acceptable", False) == work["none_acceptable"]
            shown = [texts[index] for index in row["presented"]]
            assert shown == [one["text"] for one in task["completions"]]
            compared += 1
    assert compared == len(stored) == labeled.store.counts()["places_done"] - 18


def test_all_demonstrations_are_written(labeled: Labeled, rows: dict[str, Any]) -> None:
    answers = Oversight(labeled.store).answers()
    unanswered = {id_ for id_, row in rows.items() if not row["completions"]}
    assert len(answers) == len(unanswered) == 18
    assert {one.prompt.meta["id"] for one in answers} == unanswered
    assert all(one.text.endswith("☕") and one.review is None for one in answers)


def test_no_labeler_is_told_of_a_model(labeled: Labeled, rows: dict[str, Any]) -> None:
    models = {model for row in rows.values() for model in row["completions"]}
    assert len(models) == 8
    for person in labeled.people:
        assert len(person.tasks) > 12
        sent = json.dumps(person.tasks)
        assert not [model for model in models if model in sent]


def test_where_outputs_come_from_is_exported(labeled: Labeled, rows: dict[str, Any]) -> None:
    published: dict[str, dict[str, set[str]]] = {}
    for row in rows.values():
        asked = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        published[asked] = merge(row["completions"])
    with TestClient(labeled.app, base_url=HERE, headers={"origin": HERE}) as lead:
        lead.post("/signin", data={"name": "lena", "password": GOOD})
        answer = lead.get("/api/lab/export/rankings")
    assert answer.status_code == 200
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == exported(labeled.store)
    for row in lines:
        found = {
            one["text"]: {source["model"] for source in one["sources"]}
            for one in row["completions"]
        }
        assert found == published[row["prompt"][0]["content"]]


def test_the_label_stage_is_complete_and_names_the_labels(
    labeled: Labeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert main(["label", str(labeled.config)]) == 0
    manifest = Manifest.read(labeled.config.parent / "run" / "label")
    assert manifest.status == "complete"
    assert manifest.metrics["snapshot"] == labeled.store.snapshot_hash()
    assert manifest.metrics["judgments_human"] == len(exported(labeled.store))
    shown = LabPage(labeled.store, "lena").agreement(["validation"])
    figure = f"{manifest.metrics['labeler_agreement']:.3f}"
    assert shown["Pairwise agreement, a tie is half"][0] == figure


# The agreement page, against figures computed here from the exported rows.


@pytest.fixture(scope="module")
def said(labeled: Labeled) -> dict[str, dict[str, dict[str, tuple[int, int, dict[str, bool]]]]]:
    """Return rank, rating and flags by prompt, labeler and output, newest revisions only."""
    found: dict[str, dict[str, dict[str, tuple[int, int, dict[str, bool]]]]] = defaultdict(dict)
    for row in sorted(exported(labeled.store), key=lambda one: one["revision"]):
        texts = [one["text"] for one in row["completions"]]
        parts = zip(row["ranks"], row["ratings"], row["flags"], strict=True)
        found[row["prompt"][0]["content"]][row["labeler"]] = dict(zip(texts, parts, strict=True))
    return found


@pytest.fixture(scope="module")
def page(labeled: Labeled) -> LabPage:
    return LabPage(labeled.store, "lena")


def test_shown_agreement_equals_a_count_over_pairs_and_scipys_tau(
    page: LabPage, said: dict[str, Any]
) -> None:
    alike, decided, taus = [], [], []
    for labelers in said.values():
        for one, other in combinations(labelers.values(), 2):
            texts = sorted(one)
            for x, y in combinations(texts, 2):
                s, t = (np.sign(who[x][0] - who[y][0]) for who in (one, other))
                alike.append(1 - abs(s - t) / 2)
                decided += [s == t] if s and t else []
            orders = [[who[text][0] for text in texts] for who in (one, other)]
            if all(len(set(order)) > 1 for order in orders):
                taus.append(kendalltau(*orders, variant="b").statistic)
    shown = page.agreement()
    for name, values in (
        ("Pairwise agreement, a tie is half", alike),
        ("Pairwise agreement, ties left out", decided),
        ("Kendall's tau-b", taus),
    ):
        value, low, high, _, count = shown[name]
        assert (value, count) == (f"{np.mean(values):.3f}", len(values))
        assert float(low) < float(value) < float(high)
    assert 0.6 < np.mean(alike) < 0.9
    assert shown["Comparisons of stages, a tie is half"][0] == "undefined"


def test_shown_alpha_equals_its_definition(page: LabPage, said: dict[str, Any]) -> None:
    units = [
        [labelers[name][text][1] for name in labelers]
        for labelers in said.values()
        for text in next(iter(labelers.values()))
        if len(labelers) > 1
    ]
    values = np.concatenate(units)
    sizes = np.array([(values == rating).sum() for rating in range(1, 8)])

    def distance(c: int, k: int) -> float:
        """Return Krippendorff's ordinal distance: how many stand between, both ends half."""
        c, k = sorted((c, k))
        return float(sizes[c - 1 : k].sum() - (sizes[c - 1] + sizes[k - 1]) / 2) ** 2

    observed = sum(
        2 * distance(c, k) / (len(unit) - 1) for unit in units for c, k in combinations(unit, 2)
    )
    expected = sum(
        sizes[c - 1] * sizes[k - 1] * distance(c, k) for c in range(1, 8) for k in range(1, 8)
    )
    n = len(values)
    alpha = 1 - (observed / n) / (expected / (n * (n - 1)))
    value, _, _, prompts, count = page.agreement()["Krippendorff's alpha of the ratings"]
    assert (value, count) == (f"{alpha:.3f}", n)
    assert prompts == sum(len(labelers) > 1 for labelers in said.values())
    assert 0.2 < alpha < 0.9


def test_shown_figures_of_flags_equal_statsmodels(page: LabPage, said: dict[str, Any]) -> None:
    # Fleiss' kappa and alpha correct for the same chance, alpha for the size of the sample, too.
    shown = page.flags(["validation"])
    held_out = [labelers for labelers in said.values() if len(labelers) > 1]
    for question in OUTPUT_FLAGS:
        answers = np.array(
            [
                [question.name in who[text][2] for who in labelers.values()]
                for labelers in held_out
                for text in next(iter(labelers.values()))
            ]
        )
        assert answers.shape[1] == 4
        table, _ = aggregate_raters(answers.astype(int), n_cat=2)
        n = answers.size
        alpha = 1 - (1 - fleiss_kappa(table)) * (n - 1) / n
        agreed = (table * (table - 1)).sum(axis=1).mean() / (4 * 3)
        yes = answers.mean()
        chance = 2 * yes * (1 - yes)
        ac1 = (agreed - chance) / (1 - chance)
        prevalence, shown_alpha, shown_ac1, _, count = shown[question.label]
        assert (prevalence, count) == (f"{yes:.1%}", n)
        assert shown_alpha.startswith(f"{alpha:.2f} (")
        assert shown_ac1.startswith(f"{ac1:.2f} (")
