"""Turn rankings into what the reward model trains on: one element a prompt.

An element holds every distinct completion of its prompt once, and every judgment on them as rows
of indices into those completions, so that a batch is one forward pass over its completions however
many labelers judged them and in how many pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.config.reward import RewardSection
from pipeline.errors import DataError
from pipeline.formatting import Formatter
from pipeline.ranking_loss import Ties
from pipeline.records import Prompt, Ranking


class Judgment(NamedTuple):
    """Point one labeler's ranking at its element's completions."""

    rows: tuple[int, ...]
    ranks: tuple[int, ...]
    ratings: tuple[int, ...] | None


@dataclass(frozen=True)
class RankedPrompt:
    """Hold one prompt's completions, encoded, and the judgments on them.

    Attributes:
        prompt: the prompt's id.
        texts: the distinct completions.
        ids: prompt and completion together, a list a completion.
        judgments: at least one, each with a pair to learn from.
    """

    prompt: str
    texts: tuple[str, ...]
    ids: tuple[list[int], ...]
    judgments: tuple[Judgment, ...]


class EncodedRankings(NamedTuple):
    """Hold the elements, and how many rankings had no pair to learn from."""

    elements: list[RankedPrompt]
    left_out: int


def check_rankings(rankings: Iterable[Ranking], where: str) -> None:
    """Refuse a ranking that says nothing, or contradicts itself.

    Raises:
        DataError: for fewer than two completions, a completion that is empty or stands twice, or
            as many ranks or ratings as there are not completions.
    """
    for ranking in rankings:
        texts = ranking.completions
        problem = None
        if len(texts) < 2:
            problem = f"must rank at least 2 completions, got {len(texts)}"
        elif len(ranking.ranks) != len(texts):
            problem = f"must have {len(texts)} ranks, one a completion, got {len(ranking.ranks)}"
        elif ranking.ratings is not None and len(ranking.ratings) != len(texts):
            problem = f"must have {len(texts)} ratings or none, got {len(ranking.ratings)}"
        elif not all(text.strip() for text in texts):
            problem = "must rank completions with text, got an empty one"
        elif len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            problem = f"must rank different completions, got {twice[:40]!r} twice"
        if problem:
            raise DataError(
                f"{where}: the ranking of {_start(ranking.prompt)} {problem}. Mend or remove it."
            )


def check_disjoint(training: Iterable[Ranking], held_out: Iterable[Ranking], where: str) -> None:
    """Refuse held-out rankings of prompts that are trained on.

    Raises:
        DataError: if a prompt is on both sides; says how many and names one.
    """
    known = {ranking.prompt.id for ranking in training}
    shared = {r.prompt.id: r.prompt for r in held_out if r.prompt.id in known}
    if shared:
        raise DataError(
            f"{where}.validation must hold no prompt of {where}.data, got {len(shared)} on both "
            f"sides ({_start(next(iter(shared.values())))}). Remove them from one side."
        )


def check_learnable(rankings: Iterable[Ranking], section: RewardSection, where: str) -> None:
    """Refuse rankings from which the loss, as it is configured, has nothing to learn.

    Raises:
        DataError: if all pairs are tied and ties are dropped, or a margin is asked for and there is
            no rating.
    """
    rankings = list(rankings)
    if not any(has_pairs(ranking.ranks, section.ties) for ranking in rankings):
        raise DataError(
            f"{where}.data must hold a pair that is not tied, got none in "
            f"{len(rankings)} rankings. Gather more judgments, or set {where}.ties: half."
        )
    if section.margin == "rating" and all(ranking.ratings is None for ranking in rankings):
        raise DataError(
            f"{where}.data must hold ratings where {where}.margin is 'rating', got none in "
            f"{len(rankings)} rankings. Set {where}.margin: none."
        )


def has_pairs(ranks: Sequence[int], ties: Ties) -> bool:
    """Tell whether a ranking holds a pair that counts."""
    return ties == "half" or len(set(ranks)) > 1


def encode_rankings(
    rankings: Sequence[Ranking], formatter: Formatter, max_length: int, *, ties: Ties, where: str
) -> EncodedRankings:
    """Gather rankings by prompt, in the order of the first of each, and encode each text once.

    Args:
        rankings: checked by ``check_rankings``.
        formatter: renders prompt and completion to ids.
        max_length: tokens of prompt and completion together.
        ties: rankings without a pair that counts are left out.
        where: the setting that an error names.

    Raises:
        DataError: if a prompt with its completion is longer than ``max_length``; says how many.
    """
    grouped: dict[str, list[Ranking]] = {}
    left_out = 0
    for ranking in rankings:
        if has_pairs(ranking.ranks, ties):
            grouped.setdefault(ranking.prompt.id, []).append(ranking)
        else:
            left_out += 1
    elements = []
    long: list[tuple[int, Prompt]] = []
    for prompt_id, group in grouped.items():
        prompt = group[0].prompt
        head = formatter.prompt_ids(prompt.messages)
        place: dict[str, int] = {}
        for text in (text for ranking in group for text in ranking.completions):
            place.setdefault(text, len(place))
        ids = tuple([*head, *formatter.completion_ids(text)] for text in place)
        long += [(len(row), prompt) for row in ids if len(row) > max_length]
        judgments = tuple(
            Judgment(tuple(place[text] for text in r.completions), r.ranks, r.ratings)
            for r in group
        )
        elements.append(RankedPrompt(prompt_id, tuple(place), ids, judgments))
    if long:
        longest, prompt = max(long, key=lambda found: found[0])
        raise DataError(
            f"{where}: a prompt and its completion must have at most {max_length} tokens together, "
            f"got {len(long)} beyond that, the longest of {longest} ({_start(prompt)}). "
            "Remove them, or raise reward.max_length within the model's context."
        )
    return EncodedRankings(elements, left_out)


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad lists of ids to the longest; return ids and mask, [rows, time]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


class RankingCollator:
    """Put the elements of a micro-batch into one forward pass.

    C completions in all, J judgments, K the most completions of one judgment:

    * ``input_ids``, ``attention_mask``: every completion once, [C, time];
    * ``rows``: where each judgment's completions stand among the C, [J, K];
    * ``ranks``, ``ratings`` (0 all along where none were given) and ``mask``, [J, K];
    * ``shares``: judgments that the prompt of each one has, [J]: every prompt weighs the same;
    * ``prompts``: how many there are.

    An element that is None fills a batch up: it counts for nothing, and where there is nothing else
    it becomes a single padding token, because every process must run the model.

    Args:
        pad_id: what to pad with.
        margin: whether the ratings are used.
    """

    def __init__(self, pad_id: int, margin: Literal["none", "rating"] = "none") -> None:
        self.pad_id = pad_id
        self.margin = margin

    def __call__(self, elements: Sequence[RankedPrompt | None]) -> dict[str, Tensor]:
        """Collate the elements of one micro-batch."""
        real = [element for element in elements if element is not None]
        offsets = [0]
        for element in real:
            offsets.append(offsets[-1] + len(element.ids))
        judged = [
            (offset, judgment, len(element.judgments))
            for offset, element in zip(offsets, real, strict=False)
            for judgment in element.judgments
        ]
        ids, attention = pad_right(
            [row for element in real for row in element.ids] or [[self.pad_id]], self.pad_id
        )
        most = max((len(judgment.rows) for _, judgment, _ in judged), default=1)
        shape = (len(judged), most)
        mask = torch.zeros(shape, dtype=torch.bool)
        rows, ranks = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        ratings = torch.zeros(shape)
        for j, (offset, judgment, _) in enumerate(judged):
            k = len(judgment.rows)
            mask[j, :k] = True
            rows[j, :k] = torch.tensor(judgment.rows) + offset
            ranks[j, :k] = torch.tensor(judgment.ranks)
            if self.margin == "rating" and judgment.ratings is not None:
                ratings[j, :k] = torch.tensor(judgment.ratings, dtype=ratings.dtype)
        return {
            "input_ids": ids,
            "attention_mask": attention.long(),
            "rows": rows,
            "ranks": ranks,
            "ratings": ratings,
            "mask": mask,
            "shares": torch.tensor([share for _, _, share in judged], dtype=torch.long),
            "prompts": torch.tensor(len(real)),
        }


def _start(prompt: Prompt) -> str:
    return repr(prompt.messages[-1]["content"][:40])
