"""PandaLM's comparisons, each voted on by three people: what the lab shows of their agreement."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau
from statsmodels.stats.inter_rater import aggregate_raters

from pipeline.config.run import load_config
from pipeline.labeling import open_store
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from stages.cli import main
from tests.labeling_ui.lab_handlers import LabPage
from tests.labeling_ui.scripted import add_people

CONFIG = """
run_dir: {folder}/run
base: a-model
label:
  imports: [{{path: {data}, format: pandalm}}]
"""
SPLITS = ("train", "validation")
A, TIE, B = 0, 1, 2
VOTES = {"a": A, "tie": TIE, "b": B}


@dataclass(frozen=True)
class Published:
    """The votes as they are in the file, read by nothing of ours.

    Attributes:
        prompts: of each pair of outputs, its prompt.
        votes: of each pair, what the three people said first, [pairs, 3].
    """

    prompts: list[str]
    votes: np.ndarray


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("STEERLINE_DATA")
    if not folder:
        pytest.skip("STEERLINE_DATA is not set: the real data lies outside the repository")
    return Path(folder) / "pandalm" / "comparisons.jsonl"


@pytest.fixture(scope="module")
def published(data: Path) -> Published:
    """Return each pair once, as it was voted on first; rows with an empty text left out."""
    pairs: dict[tuple[str, frozenset[str]], list[int]] = {}
    for row in map(json.loads, data.read_text(encoding="utf-8").splitlines()):
        texts = row["completion_a"], row["completion_b"]
        if all(text.strip() for text in (row["prompt"], *texts)):
            pair = f"{row['prompt']}\0{row['input']}", frozenset(texts)
            pairs.setdefault(pair, [VOTES[vote] for vote in row["votes"]])
    return Published([prompt for prompt, _ in pairs], np.array(list(pairs.values())))


@pytest.fixture(scope="module")
def store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStore]:
    """Import the votes by the label stage."""
    folder = tmp_path_factory.mktemp("pandalm")
    path = folder / "run.yaml"
    path.write_text(CONFIG.format(folder=folder, data=data), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ.copy())
        patch.setattr("pipeline.store.passwords.COST", 2**5)
        assert main(["label", str(path)]) == 0
        with open_store(load_config(path, []), create=False) as opened:
            add_people(Accounts(opened), {})
            yield opened


@pytest.fixture(scope="module")
def page(store: LabelStore) -> LabPage:
    return LabPage(store, "lena")


@pytest.fixture(scope="module")
def shown(page: LabPage) -> dict[str, list[Any]]:
    """Return the rows of the agreement page, by measure."""
    return page.agreement()


def test_every_vote_is_in_the_store(store: LabelStore, published: Published) -> None:
    counts = store.counts()
    assert (counts["labelers_human"], counts["judgments_human"]) == (3 + 1, 3 * (999 - 55))
    rankings = store.rankings()
    assert len(rankings) == published.votes.size
    ties = sum(ranking.ranks == (1, 1) for ranking in rankings)
    assert ties == (published.votes == TIE).sum()


def test_shown_pairwise_agreement_equals_counts_of_statsmodels_table(
    shown: dict[str, list[Any]], published: Published
) -> None:
    counts, categories = aggregate_raters(published.votes, n_cat=3)
    assert list(categories) == [A, TIE, B]
    same = (counts * (counts - 1) / 2).sum(axis=1)
    half = counts[:, TIE] * (counts[:, A] + counts[:, B])
    pairs = 3.0 * len(counts)
    value, *_, prompts, count = shown["Pairwise agreement, a tie is half"]
    assert value == f"{(same + 0.5 * half).sum() / pairs:.3f}"
    assert (prompts, count) == (len(set(published.prompts)), pairs)

    ends = counts[:, [A, B]]
    alike = (ends * (ends - 1) / 2).sum()
    decided = (ends.sum(axis=1) * (ends.sum(axis=1) - 1) / 2).sum()
    value, *_, count = shown["Pairwise agreement, ties left out"]
    assert (value, count) == (f"{alike / decided:.3f}", decided)


def test_shown_tau_equals_scipys(shown: dict[str, list[Any]], published: Published) -> None:
    taus = [
        kendalltau((0, s - TIE), (0, t - TIE), variant="b").statistic
        for said in published.votes
        for s, t in combinations(said, 2)
        if TIE not in (s, t)
    ]
    value, *_, count = shown["Kendall's tau-b"]
    assert (value, count) == (f"{np.mean(taus):.3f}", len(taus))


def test_shown_intervals_are_those_of_a_ratio_over_prompts(
    shown: dict[str, list[Any]], published: Published
) -> None:
    alike: dict[str, float] = defaultdict(float)
    pairs: dict[str, int] = defaultdict(int)
    for prompt, said in zip(published.prompts, published.votes, strict=True):
        for s, t in combinations(said, 2):
            alike[prompt] += 1 - abs(s - t) / 2
            pairs[prompt] += 1
    ratio = sum(alike.values()) / sum(pairs.values())
    # Linearised: the variance of a ratio of sums over independent prompts.
    rest = [alike[prompt] - ratio * pairs[prompt] for prompt in pairs]
    error = np.sqrt(len(rest) * np.var(rest)) / sum(pairs.values())
    _, low, high, *_ = shown["Pairwise agreement, a tie is half"]
    # A thousand resamples know the ends of an interval to a twentieth of a standard error or so.
    assert float(low) == pytest.approx(ratio - 1.96 * error, abs=0.2 * error + 5e-4)
    assert float(high) == pytest.approx(ratio + 1.96 * error, abs=0.2 * error + 5e-4)


def test_what_nobody_was_asked_is_undefined(shown: dict[str, list[Any]], page: LabPage) -> None:
    for name in ("Krippendorff's alpha of the ratings", "Comparisons of stages, a tie is half"):
        assert shown[name] == ["undefined", "-", "-", 0, 0]
    assert {tuple(row[-2:]) for row in page.flags().values()} == {(0, 0)}


def test_the_page_measures_the_chosen_split(shown: dict[str, list[Any]], page: LabPage) -> None:
    name = "Pairwise agreement, a tie is half"
    whole, parts = shown[name], [page.agreement([one])[name] for one in SPLITS]
    counts = [part[-1] for part in parts]
    assert sum(counts) == whole[-1]
    assert min(counts) > 100
    mean = sum(float(part[0]) * part[-1] for part in parts) / whole[-1]
    assert float(whole[0]) == pytest.approx(mean, abs=1e-3)
