"""Fill the label store: import human rankings, let simulated labelers work, measure agreement.

A simulated labeler leases and submits through the store's interface as a person's page does. No
torch here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from pipeline.config.label import LabelSection
from pipeline.config.run import RunConfig
from pipeline.config.source import Source
from pipeline.data import read_answered, read_rankings
from pipeline.records import Prompt, Ranking
from pipeline.store import Judgment, LabelStore
from pipeline.store.catalog import add_completions, add_prompt
from pipeline.world import SimulatedLabeler, World, draw_labelers


def store_url(config: RunConfig) -> str | Path:
    """Return where the run's labels are: ``label.store``, or a file in the run's folder."""
    return config.section("label", LabelSection).store or config.run_dir / "labels.db"


def open_store(config: RunConfig, *, create: bool = True) -> LabelStore:
    """Open the run's label store, made where ``create`` says so, and migrated where it must be.

    Raises:
        StoreError: if it cannot be opened.
    """
    return LabelStore.open(store_url(config), create=create)


def split_of(
    prompt: Prompt, seed: int, validation_fraction: float
) -> Literal["train", "validation"]:
    """Assign a prompt to a split by its content, so that it never is on both sides."""
    digest = hashlib.sha256(f"{seed}:{prompt.id}".encode()).digest()
    share = int.from_bytes(digest[:7], "big") / 256**7
    return "validation" if share < validation_fraction else "train"


def import_rankings(store: LabelStore, sources: Sequence[Source], config: RunConfig) -> int:
    """Bring human rankings into the store and return how many judgments were new."""
    section = config.section("label", LabelSection)
    added = 0
    for source in sources:
        sides: dict[Literal["train", "validation"], list[Ranking]] = {"train": [], "validation": []}
        for ranking in read_rankings([source], config.seed):
            side = split_of(ranking.prompt, config.seed, section.validation_fraction)
            sides[side].append(ranking)
        for side, rankings in sides.items():
            count = store.import_rankings(rankings, split=side, source=Path(source.path).stem)
            added += count.added
    return added


def import_completions(store: LabelStore, sources: Sequence[Source], config: RunConfig) -> int:
    """Bring prompts with unranked completions into the store, all or none; count the new prompts.

    Raises:
        SteerlineError: for a faulty line, or a prompt that the store has in another split.
    """
    section = config.section("label", LabelSection)
    found = read_answered(sources, config.seed)
    added = 0
    with store.writing() as session:
        now = store.clock()
        for answered in found:
            prompt = answered.prompt
            side = split_of(prompt, config.seed, section.validation_fraction)
            added += add_prompt(session, prompt, side, now)
            add_completions(session, prompt.id, answered.completions, now)
    return added


def make_tasks(store: LabelStore, section: LabelSection) -> int:
    """Make the tasks that a section asks people to do, and return how many are new."""
    made = 0
    if section.tasks == "all":
        made += store.create_ranking_tasks(section.overlap, "train")
    made += store.create_ranking_tasks(
        section.validation_overlap, "validation", held_out=section.held_out_overlap
    )
    if section.demonstration_overlap:
        made += store.create_demonstration_tasks(section.demonstration_overlap)
    for comparison in section.comparisons:
        first, second = comparison.stages
        made += store.create_comparison_tasks((first, second), comparison.overlap, comparison.split)
    return made


def simulate(store: LabelStore, world: World, section: LabelSection, seed: int) -> None:
    """Let simulated labelers judge every open task; held-out labelers only held-out tasks."""
    labelers = draw_labelers(
        world, section.simulated, seed, section.noise, section.simulated_held_out
    )
    trained = [labeler for labeler in labelers if labeler.group == "train"]
    held_out = [labeler for labeler in labelers if labeler.group == "held_out"]
    overlap = min(section.validation_overlap, len(trained))
    store.create_ranking_tasks(min(section.overlap, len(trained)), "train")
    store.create_ranking_tasks(overlap, "validation", held_out=len(held_out))
    _work(store, trained)
    _work(store, held_out)


def _work(store: LabelStore, labelers: Sequence[SimulatedLabeler]) -> None:
    """Let labelers take turns until no task has a free place for any of them."""
    ids = {
        labeler.name: store.add_labeler(labeler.name, kind="simulated", group=labeler.group)
        for labeler in labelers
    }
    waiting = list(labelers)
    while waiting:
        waiting = [labeler for labeler in waiting if _judge_next(store, labeler, ids[labeler.name])]


def _judge_next(store: LabelStore, labeler: SimulatedLabeler, labeler_id: int) -> bool:
    task = store.lease_task(labeler_id)
    if task is None:
        return False
    verdict = labeler.judge(task.prompt, [choice.text for choice in task.completions])
    ids = [choice.id for choice in task.completions]
    judgment = Judgment(
        ranks=dict(zip(ids, verdict.ranks, strict=True)),
        ratings=dict(zip(ids, verdict.ratings, strict=True)),
        flags=dict(zip(ids, verdict.flags, strict=True)),
    )
    store.submit(task.token, judgment, idempotency_key=f"{labeler.name}:{task.id}")
    return True


def gold_accuracy(world: World, rankings: Sequence[Ranking]) -> tuple[float, int]:
    """Return how often gold orders a judged pair as the labeler did, and over how many pairs.

    The ceiling of any reward model on these judgments. Pairs that the labeler tied are left out;
    a tie of gold counts half.
    """
    agreed, pairs = 0.0, 0
    for ranking in rankings:
        utilities = [world.gold(ranking.prompt, text).utility for text in ranking.completions]
        for i, j in combinations(range(len(utilities)), 2):
            preferred = ranking.ranks[j] - ranking.ranks[i]
            if preferred:
                difference = (utilities[i] - utilities[j]) * preferred
                agreed += 0.5 if difference == 0 else float(difference > 0)
                pairs += 1
    return (agreed / pairs if pairs else float("nan")), pairs
