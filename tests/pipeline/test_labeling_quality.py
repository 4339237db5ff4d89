from __future__ import annotations

import json
import os
import random
from datetime import timedelta
from itertools import combinations, pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from pipeline.agreement import (
    labeler_agreement,
    mean_kendall_tau,
    pairwise_agreement,
    rating_alpha,
)
from pipeline.config.source import Source
from pipeline.data import read_rankings
from pipeline.labeling_quality import (
    LabelerQuality,
    Screening,
    count_by_time,
    for_agreement,
    measure_flags,
    measure_labelers,
    measure_screening,
    win_rates,
)
from pipeline.store import LabelStore
from pipeline.store.decisions import KnownAnswer
from pipeline.store.judged import Judged
from pipeline.store.oversight import Oversight
from tests.pipeline.judgments import START, judged, outputs


def quality(*items: Judged, known: dict[str, KnownAnswer] | None = None) -> dict:
    return {one.labeler: one for one in measure_labelers(items, known or {})}


def answer(task: str, ranks: dict[str, int], flags: dict | None = None) -> KnownAnswer:
    return KnownAnswer(task, "gold", ranks, flags or {}, "lena", START)


def draw(prompts: int, labelers: int, k: int, seed: int) -> list[Judged]:
    rng = random.Random(seed)
    return [
        judged(
            f"l{labeler}",
            tuple(rng.randint(1, 3) for _ in range(k)),
            prompt=f"p{prompt}",
            ratings=tuple(rng.randint(1, 7) for _ in range(k)),
            presented=tuple(rng.sample(range(k), k)),
            active_seconds=rng.uniform(5, 60),
        )
        for prompt in range(prompts)
        for labeler in range(labelers)
    ]


def agree(first: Judged, second: Judged) -> tuple[float, int]:
    pairs = list(combinations(range(len(first.ranks)), 2))
    total = 0.0
    for i, j in pairs:
        s, t = (np.sign(one.ranks[i] - one.ranks[j]) for one in (first, second))
        total += 1.0 if s == t else 0.5 if 0 in (s, t) else 0.0
    return total, len(pairs)


def ratio(counts: list[tuple[float, int]]) -> float:
    return sum(one for one, _ in counts) / sum(all_ for _, all_ in counts)


def test_agreement_with_others_gold_and_oneself_equals_a_count_over_pairs() -> None:
    items = draw(prompts=8, labelers=3, k=4, seed=1)
    again = [
        judged(
            "l0",
            (1, 2, 3, 4),
            prompt=f"p{i}",
            task=f"again {i}",
            purpose="repeat",
            repeats=f"task p{i}",
        )
        for i in range(5)
    ]
    truth = {
        f"task g{i}": answer(f"task g{i}", {f"g{i}/{j}": j + 1 for j in range(4)}) for i in range(3)
    }
    tests = [judged("l0", (1, 1, 2, 3), prompt=f"g{i}", purpose="gold") for i in range(3)]
    found = quality(*items, *again, *tests, known=truth)["l0"]
    own = [one for one in items if one.labeler == "l0"]
    others = [
        agree(one, other)
        for one in own
        for other in items
        if other.labeler != "l0" and other.task == one.task
    ]
    assert found.others.value == pytest.approx(ratio(others), abs=1e-12)
    assert found.others.count == 8 * 2 * 6
    # Against 1, 2, 3, 4: one of six pairs is a tie against a preference.
    assert found.gold.value == pytest.approx(5.5 / 6, abs=1e-12)
    twice = [agree(one, item) for one in again for item in own if item.task == one.repeats]
    assert found.repeats.value == pytest.approx(ratio(twice), abs=1e-12)
    assert found.repeats.count == 5 * 6
    assert found.judgments == 8 + 5 + 3
    assert quality(*items)["l1"].gold is None
    assert quality(*items)["l1"].repeats is None


def test_flags_are_compared_where_the_lead_settled_them() -> None:
    truth = {
        "task p": answer(
            "task p",
            {"p/0": 1, "p/1": 2},
            {"p/0": {"violent": True, "sexual": False}, "p/1": {"violent": False}},
        )
    }
    item = judged(
        "ada", (1, 2), purpose="gold", flags=({"violent": True, "sexual": True}, {"opinion": True})
    )
    found = quality(item, known=truth)["ada"].gold_flags
    # Alike: violent on the first, violent (left out, a no) on the second; not alike: sexual.
    assert (found.value, found.count) == (pytest.approx(2 / 3, abs=1e-12), 3)
    unasked = judged("bob", (1, 2), purpose="gold", interface=None)
    assert quality(unasked, known=truth)["bob"].gold_flags is None


def test_the_first_shown_wins_half_for_somebody_who_does_not_care() -> None:
    fair = [
        judged("ada", (1, 2, 3), prompt=f"p{i}", presented=order)
        for i, order in enumerate(permutations(range(3)))
    ]
    assert quality(*fair)["ada"].first_wins.value == pytest.approx(0.5, abs=1e-12)
    always = [judged("ada", (2, 1, 3), prompt=f"p{i}", presented=(1, 0, 2)) for i in range(3)]
    assert quality(*always)["ada"].first_wins.value == 1.0
    tied = [judged("ada", (1, 1, 2), presented=(0, 1, 2))]
    assert quality(*tied)["ada"].first_wins.value == pytest.approx(0.75, abs=1e-12)
    unknown = [judged("ada", (1, 2), presented=None)]
    assert quality(*unknown)["ada"].first_wins is None


def test_a_labeler_who_prefers_the_first_is_found_out() -> None:
    rng = random.Random(0)
    items = []
    for i in range(200):
        order = rng.sample(range(3), 3)
        value = [rng.gauss(0, 1) for _ in range(3)]
        value[order[0]] += 1.0
        ranks = tuple(1 + sum(other > own for other in value) for own in value)
        items.append(judged("ada", ranks, prompt=f"p{i}", presented=tuple(order)))
    found = quality(*items)["ada"].first_wins
    assert found.low > 0.6
    assert found.prompts == 200


def test_length_bias_counts_decided_pairs_of_different_lengths() -> None:
    even = outputs("p", 3)
    twins = (even[0], even[1], even[1].__class__("p/2", even[1].text, ("sft",)))
    items = [
        judged("ada", (3, 2, 1), prompt="p"),  # the longer wins 3 of 3
        judged("ada", (1, 2, 2), prompt="q"),  # the shorter wins 2, one pair tied
        judged("ada", (2, 1, 3), prompt="r", outputs=twins),  # of 2 counted the longer wins 1
        judged("bob", (1, 2, 3), prompt="p"),  # the shorter wins 3 of 3
        judged("bob", (3, 2, 1), prompt="elsewhere"),
    ]
    found = quality(*items)
    assert found["ada"].longer_wins.value == pytest.approx(4 / 7, abs=1e-12)
    assert found["ada"].longer_wins.count == 7
    # Others' on the prompts that ada judged: bob's on p alone.
    assert found["ada"].others_longer_wins.value == 0.0
    assert quality(items[0])["ada"].others_longer_wins is None


def test_hurry_is_the_fast_halfs_agreement_less_the_slow_halfs() -> None:
    items = []
    for i in range(6):
        careful = i % 2 == 0
        items += [
            judged("bob", (1, 2, 3), prompt=f"p{i}"),
            judged(
                "ada",
                (1, 2, 3) if careful else (3, 2, 1),
                prompt=f"p{i}",
                active_seconds=30.0 if careful else 3.0,
            ),
        ]
    assert quality(*items)["ada"].hurry.value == pytest.approx(-1.0, abs=1e-12)
    assert quality(*items)["bob"].hurry is None
    assert quality(*items)["ada"].seconds == pytest.approx(16.5, abs=1e-12)
    items = draw(prompts=10, labelers=3, k=3, seed=4)
    own = [one for one in items if one.labeler == "l1"]
    middle = np.median([one.active_seconds for one in own])
    halves: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    for one in own:
        halves[one.active_seconds <= middle] += [
            agree(one, other)
            for other in items
            if other.task == one.task and other.labeler != one.labeler
        ]
    expected = ratio(halves[True]) - ratio(halves[False])
    found = quality(*items)["l1"].hurry
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low <= found.value <= found.high


def test_a_removed_labeler_is_measured_but_measures_nobody() -> None:
    items = [
        judged(name, ranks, prompt=f"p{i}", excluded=name == "cyd", active_seconds=float(i))
        for i in range(4)
        for name, ranks in (("ada", (1, 2)), ("bob", (1, 2)), ("cyd", (2, 1)))
    ]
    with_cyd, without = quality(*items), quality(*(one for one in items if not one.excluded))
    for name in ("ada", "bob"):
        assert with_cyd[name] == without[name]
    assert (with_cyd["cyd"].others.value, with_cyd["cyd"].others.count) == (0.0, 8)
    assert with_cyd["cyd"].hurry.value == 0.0


def test_only_ordinary_work_tells_how_far_labelers_agree() -> None:
    items = [
        judged("ada", (1, 2)),
        judged("bob", (1, 2)),
        *(judged("ada", (1, 2), purpose=purpose) for purpose in ("gold", "repeat", "screening")),
        judged("ada", (1, 2), kind="comparison"),
    ]
    assert for_agreement(items) == [items[0].ranking, items[1].ranking]
    assert for_agreement(items, "comparison") == [items[5].ranking]
    gold = [judged("ada", (1, 2), purpose="gold"), judged("bob", (2, 1), purpose="gold")]
    assert quality(*gold)["ada"].others is None


def test_flags_are_measured_over_outputs_of_ordinary_work() -> None:
    items = [
        judged("ada", (1, 2), flags=({"violent": True}, {})),
        judged("bob", (1, 2), flags=({"violent": True}, {"violent": True})),
        judged("cyd", (1, 2), purpose="gold", flags=({}, {})),
        judged("eve", (1, 2), interface=None),
    ]
    found = measure_flags(items, ["violent", "sexual"])
    assert found["violent"].prevalence.value == 0.75
    assert found["violent"].prevalence.count == 4
    # Units (yes, yes) and (no, yes): 1 - 3 * 2 / (2 * 3 * 1).
    assert found["violent"].alpha.value == pytest.approx(0.0, abs=1e-12)
    assert found["sexual"].prevalence.value == 0.0
    assert found["sexual"].alpha is None


SCREENED = {
    f"task p{i}": answer(f"task p{i}", {f"p{i}/0": 1, f"p{i}/1": 2}, {f"p{i}/0": {"violent": True}})
    for i in range(4)
}


@pytest.mark.parametrize(
    ("right", "flagged", "scores", "passed"),
    [
        (3, 3, (6, 6), True),
        (2, 4, (7,), False),
        (4, 2, (7,), False),
        (4, 4, (6, 5), False),
        (4, 4, (), None),
    ],
)
def test_screening_asks_for_75_percent_75_percent_and_6_of_7(
    right: int, flagged: int, scores: tuple[int, ...], passed: bool | None
) -> None:
    items = [
        judged(
            "ada",
            (1, 2) if i < right else (2, 1),
            prompt=f"p{i}",
            purpose="screening",
            flags=({"violent": i < flagged}, {}),
        )
        for i in range(4)
    ]
    found = measure_screening(items, SCREENED, {"ada": scores} if scores else {})["ada"]
    assert found == Screening(
        4, flagged / 4, right / 4, sum(scores) / len(scores) if scores else None
    )
    assert found.passed is passed


def test_screening_without_tasks_is_open() -> None:
    found = measure_screening([judged("ada", (1, 2))], SCREENED, {"bob": (7,)})
    assert found == {"bob": Screening(0, None, None, 7.0)}
    assert found["bob"].passed is None


def compare(labeler: str, ranks: tuple[int, int], prompt: str, *stages: tuple[str, ...]) -> Judged:
    pair = outputs(prompt, 2, o0=stages[0], o1=stages[1])
    return judged(labeler, ranks, prompt=prompt, kind="comparison", outputs=pair)


def test_win_rates_halve_ties_and_resample_prompts() -> None:
    items = [
        compare("ada", (1, 2), "p", ("ppo",), ("sft",)),
        compare("bob", (1, 1), "p", ("ppo",), ("sft",)),
        compare("ada", (1, 2), "q", ("sft",), ("ppo",)),
        compare("ada", (2, 1), "r", ("best_of",), ("sft",)),
        judged("ada", (1, 2), prompt="s"),
    ]
    found = {(one.stage, one.against): one.share for one in win_rates(items)}
    assert set(found) == {("ppo", "sft"), ("best_of", "sft")}
    assert found["ppo", "sft"].value == pytest.approx((1 + 0.5 + 0) / 3, abs=1e-12)
    assert (found["ppo", "sft"].prompts, found["ppo", "sft"].count) == (2, 3)
    assert found["best_of", "sft"].value == 0.0
    assert found["ppo", "sft"].low == 0.0
    assert found["ppo", "sft"].high == pytest.approx(0.75, abs=1e-12)


def test_an_output_of_several_stages_counts_for_each_but_never_against_itself() -> None:
    found = win_rates([compare("ada", (1, 2), "p", ("ppo", "sft"), ("sft", "base"))])
    assert {(one.stage, one.against): one.share.value for one in found} == {
        ("base", "ppo"): 0.0,
        ("base", "sft"): 0.0,
        ("ppo", "sft"): 1.0,
    }


def test_work_is_counted_by_day_and_by_hour() -> None:
    times = [
        (START, "ada"),
        (START + timedelta(minutes=59), "ada"),
        (START + timedelta(hours=1), "bob"),
        (START + timedelta(days=1), "ada"),
    ]
    day = START.replace(hour=0)
    assert count_by_time(times, "day") == [
        (day, "ada", 2),
        (day, "bob", 1),
        (day + timedelta(days=1), "ada", 1),
    ]
    assert [(time.hour, name, count) for time, name, count in count_by_time(times, "hour")] == [
        (9, "ada", 2),
        (10, "bob", 1),
        (9, "ada", 1),
    ]


@pytest.fixture(scope="module")
def pandalm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Judged], list]:
    """Import PandaLM's test set, three people a pair, and return its store's judgments."""
    folder = os.environ.get("STEERLINE_DATA")
    if not folder:
        pytest.skip("STEERLINE_DATA is not set: the real data lies outside the repository")
    file = Path(folder) / "pandalm" / "comparisons.jsonl"
    rankings = read_rankings([Source(str(file), format="pandalm")], 0)
    path = tmp_path_factory.mktemp("pandalm") / "labels.db"
    with LabelStore.open(path) as store:
        store.import_rankings(rankings, split="train", source="pandalm")
        return file, Oversight(store).judged(), rankings


def test_no_vote_of_a_real_data_set_is_lost_or_folded(pandalm: tuple) -> None:
    _, found, rankings = pandalm
    assert len(found) == len(rankings) == 3 * (999 - 55)
    assert all(one.revision == 1 for one in found)
    pairs = {(one.prompt.id, frozenset(one.completions)) for one in rankings}
    work = [one for one in found if one.purpose == "work"]
    assert len(work) == 3 * len(pairs)
    assert len({one.task for one in work}) == len(pairs)
    assert {one.purpose for one in found if one not in work} == {"repeat"}


def test_the_figures_of_a_real_data_set_equal_independent_ones(pandalm: tuple) -> None:
    file, found, _ = pandalm
    votes: dict[tuple[str, frozenset[str]], list[tuple[int, int, int]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = row["completion_a"], row["completion_b"]
        if not all(text.strip() for text in (row["prompt"], *texts)):
            continue
        sign = {"a": -1, "b": 1, "tie": 0}
        turn = 1 if texts[0] < texts[1] else -1
        key = f"{row['prompt']}\0{row['input']}", frozenset(texts)
        said = tuple(turn * sign[vote] for vote in row["votes"])
        votes.setdefault(key, []).append(said)
    first = [said[0] for said in votes.values()]
    pairs = [pair for said in first for pair in combinations(said, 2)]
    agreement = np.mean([1 - abs(s - t) / 2 for s, t in pairs])
    decided = [s == t for s, t in pairs if s and t]
    taus = [kendalltau((0, s), (0, t), variant="b").statistic for s, t in pairs if s and t]

    rankings = for_agreement(found)
    with_ties = pairwise_agreement(rankings, ties=True)
    assert with_ties.value == pytest.approx(agreement, abs=1e-12)
    assert with_ties.count == len(pairs)
    without = pairwise_agreement(rankings, ties=False)
    assert without.value == pytest.approx(np.mean(decided), abs=1e-12)
    assert without.count == len(decided)
    tau = mean_kendall_tau(rankings)
    assert (tau.value, tau.count) == (pytest.approx(np.mean(taus), abs=1e-12), len(taus))
    assert rating_alpha(rankings) is None
    by_name = labeler_agreement(rankings, ties=True)
    for number in range(3):
        own = [
            1 - abs(said[number] - said[other]) / 2
            for said in first
            for other in range(3)
            if other != number
        ]
        name = f"pandalm-{number + 1}"
        assert by_name[name].value == pytest.approx(np.mean(own), abs=1e-12)
        twice = [
            1 - abs(later[number] - before[number]) / 2
            for said in votes.values()
            for before, later in pairwise(said)
        ]
        one: LabelerQuality = quality(*found)[name]
        assert one.repeats.value == pytest.approx(np.mean(twice), abs=1e-12)
        assert one.repeats.count == len(twice)
        assert one.first_wins is None
