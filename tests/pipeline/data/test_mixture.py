from __future__ import annotations

import itertools
from collections import Counter

import pytest

from pipeline.config.source import Source
from pipeline.data import MixtureRow, mix_documents, read_documents
from pipeline.errors import DataError


def count_words(text: str) -> int:
    return len(text.split())


@pytest.fixture
def ten_documents(write_rows) -> Source:
    """Write ten documents of ten words each."""
    return write_rows(*({"text": " ".join([f"d{number}"] * 10)} for number in range(10)), weight=1)


def test_each_source_fills_its_share_of_the_tokens(ten_documents):
    sources = [Source("tiny:facts", weight=3), Source("tiny:stories", weight=6), ten_documents]
    documents, table = mix_documents(sources, 0, 20_000, count_words)
    assert [row.source for row in table] == [source.path for source in sources]
    assert [row.weight for row in table] == [0.3, 0.6, 0.1]
    for row in table:
        share = row.weight * 20_000
        assert share <= row.tokens < share + 200
    assert sum(row.tokens for row in table) == sum(map(count_words, documents))
    assert sum(row.documents for row in table) == len(documents)


def test_a_mixture_is_the_same_for_the_same_seed_and_another_for_another(ten_documents):
    sources = [Source("tiny:web"), ten_documents]
    first = mix_documents(sources, 0, 1000, count_words)
    assert first == mix_documents(sources, 0, 1000, count_words)
    assert first[0] != mix_documents(sources, 1, 1000, count_words)[0]


@pytest.mark.parametrize(
    ("budget", "epochs"), [(10, 0.1), (95, 1.0), (100, 1.0), (101, 1.1), (250, 2.5)]
)
def test_a_finite_source_is_repeated_whole_epoch_by_whole_epoch(ten_documents, budget, epochs):
    documents, (row,) = mix_documents([ten_documents], 0, budget, count_words)
    assert row == MixtureRow(ten_documents.path, 1.0, len(documents), 10 * len(documents), epochs)
    times = Counter(documents).values()
    assert max(times) - (min(times) if len(times) == 10 else 0) <= 1


def test_each_epoch_has_an_order_of_its_own(ten_documents):
    from pipeline.data.mixture import _repeat

    pool = list(read_documents(ten_documents, 0))
    stream = _repeat(pool, ten_documents, 0)
    first, second = ([next(stream) for _ in pool] for _ in range(2))
    assert first != pool
    assert first != second
    assert sorted(first) == sorted(second) == sorted(pool)


def test_a_repeated_document_is_tokenized_once(ten_documents):
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return count_words(text)

    mix_documents([ten_documents], 0, 1000, count)
    assert len(counted) == 10


def test_sources_are_interleaved(ten_documents):
    sources = [Source("tiny:facts"), ten_documents]
    documents, _ = mix_documents(sources, 0, 2000, count_words)
    file_first = [text.startswith("d") for text in documents]
    switches = sum(a != b for a, b in itertools.pairwise(file_first))
    assert switches > 10


def test_the_tiny_world_needs_no_second_epoch():
    documents, (row,) = mix_documents([Source("tiny:lists")], 0, 50_000, count_words)
    assert row.epochs is None
    assert len(set(documents)) == len(documents)


def test_a_limited_tiny_source_is_repeated_like_any_other():
    documents, (row,) = mix_documents([Source("tiny:lists", limit=3)], 0, 1000, count_words)
    assert row.epochs == len(documents) / 3
    assert len(set(documents)) == 3


def test_a_weight_of_zero_leaves_the_source_out_of_the_text(ten_documents):
    idle = Source("tiny:web", weight=0)
    documents, table = mix_documents([idle, ten_documents], 0, 100, count_words)
    assert table[0] == MixtureRow("tiny:web", 0.0, 0, 0, 0.0)
    assert len(documents) == 10


@pytest.mark.parametrize("sources", [[], [Source("tiny:web", weight=0)]])
def test_a_mixture_without_weight_is_refused(sources):
    with pytest.raises(DataError, match="must have a positive weight"):
        mix_documents(sources, 0, 100, count_words)


def test_a_source_without_a_token_is_refused(ten_documents):
    with pytest.raises(DataError, match="must hold text, got no token"):
        mix_documents([ten_documents], 0, 100, lambda _: 0)
