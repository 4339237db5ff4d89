"""Mix documents by weight, as LLaMA's pretraining data (Touvron et al. 2023, table 1).

Source i gets the share w_i / sum_j w_j of the token budget. A source that holds less is gone
through again, in another order each time; LLaMA repeats its best sources so, and prints the epochs.
The tiny world draws new documents for as long as they are wanted.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.config.source import Source
from pipeline.data.documents import read_documents
from pipeline.data.tiny import is_tiny
from pipeline.errors import DataError


@dataclass(frozen=True)
class MixtureRow:
    """One line of the mixture's table.

    Attributes:
        source: the source's path.
        weight: its share of the tokens asked for, in [0, 1].
        documents: how many were drawn, repeats counted.
        tokens: how many they hold.
        epochs: documents drawn, by documents that the source holds; None where it never ends, and
            no document comes twice.
    """

    source: str
    weight: float
    documents: int
    tokens: int
    epochs: float | None


def mix_documents(
    sources: Sequence[Source],
    seed: int,
    token_budget: int,
    count_tokens: Callable[[str], int],
) -> tuple[list[str], list[MixtureRow]]:
    """Draw documents until every source has filled its share, and shuffle them together.

    A source's last document may pass its share: documents are never cut here. The result is the
    same for the same sources and seed.

    Args:
        sources: what to mix; a weight of 0 leaves a source out of the text, not of the table.
        seed: the run's seed.
        token_budget: tokens wanted in all.
        count_tokens: tokens of a document, as the model will see it.
    Returns:
        The documents, and one row a source in the order given.

    Raises:
        DataError: if no source has a weight, or one with a weight holds no text.
    """
    total = sum(source.weight for source in sources)
    if total <= 0:
        raise DataError("sources must have a positive weight among them, got none. Set a weight.")
    documents: list[str] = []
    table: list[MixtureRow] = []
    for source in sources:
        share = source.weight / total
        drawn, row = _fill(source, seed, share, share * token_budget, count_tokens)
        documents += drawn
        table.append(row)
    random.Random(f"{seed}:mixture").shuffle(documents)
    return documents, table


def _fill(
    source: Source,
    seed: int,
    share: float,
    budget: float,
    count_tokens: Callable[[str], int],
) -> tuple[list[str], MixtureRow]:
    if budget <= 0:
        return [], MixtureRow(source.path, share, 0, 0, 0.0)
    if is_tiny(source) and source.limit is None:
        size, stream = None, read_documents(source, seed)
    else:
        pool = list(read_documents(source, seed))
        size, stream = len(pool), _repeat(pool, source, seed)
        # A source may be gone through many times, and tokenizing is slow.
        count_tokens = functools.cache(count_tokens)
    drawn: list[str] = []
    tokens = 0
    for text in stream:
        drawn.append(text)
        tokens += count_tokens(text)
        if tokens >= budget:
            break
        if not tokens and len(drawn) == size:
            raise DataError(f"{source.path} must hold text, got no token of it. Remove the source.")
    epochs = None if size is None else len(drawn) / size
    return drawn, MixtureRow(source.path, share, len(drawn), tokens, epochs)


def _repeat(pool: Sequence[str], source: Source, seed: int) -> Iterator[str]:
    for epoch in itertools.count():
        order = list(pool)
        random.Random(f"{seed}:{source.path}:{epoch}").shuffle(order)
        yield from order
